"""A CUDA stream for each thread of a streamed video: on a GPU, too, a chunk is decoded while the next is denoised.

What PyTorch launches goes to the stream that is the thread's current one, by default one for all threads, in which
everything waits for everything. Between the two threads go arrays of the host alone, which are whole once they are
there; so all that is left to order is what was before them, the weights, and what comes after. Not yet run on a GPU.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

ON_CURRENT_STREAM = "triton"
"""The engine that works on PyTorch's current stream; TensorRT's has streams of its own."""


@contextlib.contextmanager
def own_stream(engine: str, work: str) -> Iterator[None]:
    """Within it, what this thread asks of the GPU goes to the stream that ``work`` has in this process: behind all that
    was asked of the usual stream before, and before all that is asked of it afterwards. On a CPU nothing happens."""
    if engine != ON_CURRENT_STREAM:
        yield
        return
    import torch

    from anyflow_rt.kernels.package import INTERPRETED

    if INTERPRETED or not torch.cuda.is_available():
        yield
        return
    usual, stream = torch.cuda.default_stream(), _stream(work, torch.cuda.current_device())
    stream.wait_event(usual.record_event())
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        usual.wait_event(stream.record_event())


@functools.cache
def _stream(work: str, device: int) -> Any:
    """Kept: PyTorch's allocator keeps the memory that it gives out on a stream for that stream."""
    import torch

    return torch.cuda.Stream(device)
