"""Triton itself, or the line that installs it; and whether its kernels run compiled or interpreted.

Every kernel file takes ``triton`` and ``tl`` from here, so that a missing package is said once and well. The mode is
Triton's own: ``TRITON_INTERPRET=1`` in the environment when Triton is first imported. It cannot change afterwards.
"""

from __future__ import annotations

import os

from anyflow_rt.errors import EngineError, MissingPackageError

try:
    import torch  # noqa: F401 - the kernels' tensors
    import triton
    import triton.language as tl
except ImportError as error:
    raise MissingPackageError(error.name or "triton", "triton", "the Triton kernels") from error

INTERPRETED: bool = not isinstance(tl.sum, triton.runtime.JITFunction)
"""Kernels run on CPU tensors, in Python: for tests and for the smallest checkpoints."""

if bool(triton.knobs.runtime.interpret) != INTERPRETED:
    raise EngineError(
        f"TRITON_INTERPRET is {os.environ.get('TRITON_INTERPRET', 'unset')}, but Triton was imported when it was not: "
        "set or unset it before Python starts"
    )

__all__ = ["INTERPRETED", "tl", "triton"]
