"""Measuring: benchmarks, and the shapes world with exact answers."""
