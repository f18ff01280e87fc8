"""``bench kernels``: what the kernels take of a GPU, what they could reach at best, and what they reach."""
