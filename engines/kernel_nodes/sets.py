"""Which parts of a denoiser become kernels of ours: the names there are for it. Without the onnx package."""

from __future__ import annotations

NONE, NORMS, ATTENTION = KERNEL_SETS = ("none", "norms", "all")
"""``norms``: residual sums with their norms, queries and keys, the update. ``all``: attention as well."""
