"""Reads AnyFlow checkpoints, exports their graphs and runs them."""
