"""Sweeps: the same prompts and seeds at every number of steps, measured so that an interrupt loses nothing."""
