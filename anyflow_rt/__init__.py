"""anyflow-rt: makes video from AnyFlow checkpoints at any number of steps."""

__version__ = "0.1.0"
