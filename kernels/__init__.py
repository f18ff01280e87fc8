"""GPU kernels, one folder per operation."""
