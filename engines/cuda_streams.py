"""The CUDA streams that this process takes of PyTorch, no two the same: one a thread of a streamed video, and others.

What PyTorch launches goes to the stream that is the thread's current one, by default one for all threads, in which
everything waits for everything. With a stream a thread, on a GPU too, a chunk is decoded while the next is denoised.
Between the two threads go arrays of the host alone, which are whole once they are there; so all that is left to order
is what was before them, the weights, and what comes after.

PyTorch has a pool of streams and gives them in turn, so the one after the last is the first again, whoever still works
on it: the decoder's kernels would go into a graph that is captured there. So all of ours come from ``new_stream``.

Not yet run on a GPU; the order of events, and that streams differ, is tested with stand-ins.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from anyflow_rt.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import MutableMapping

ON_CURRENT_STREAM = "triton"
"""The engine that works on PyTorch's current stream; TensorRT's has streams of its own."""

WORKERS = ("denoise", "decode")
"""The work that has a stream of its own."""

POOL = 32
"""Streams of a device that PyTorch gives in turn."""

_TAKING = threading.RLock()
_HELD: MutableMapping[int, Any] = WeakValueDictionary()
"""By the driver's handle, as long as somebody refers to the stream."""
_WORKERS: dict[int, dict[str, Any]] = {}


@contextlib.contextmanager
def own_stream(engine: str, work: str) -> Iterator[None]:
    """Within it, what this thread asks of the GPU goes to the stream that ``work``, of ``WORKERS``, has in this
    process: behind all that was asked of the usual stream before, and before all that is asked of it afterwards. On a
    CPU nothing happens."""
    if engine != ON_CURRENT_STREAM:
        yield
        return
    import torch

    from anyflow_rt.kernels.package import INTERPRETED

    if INTERPRETED or not torch.cuda.is_available():
        yield
        return
    usual, stream = torch.cuda.default_stream(), worker_streams(torch.cuda.current_device())[work]
    stream.wait_event(usual.record_event())
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        usual.wait_event(stream.record_event())


def worker_streams(device: int) -> dict[str, Any]:
    """Of each of ``WORKERS`` on the GPU of this index, made by the first call. They are kept: PyTorch's allocator keeps
    the memory that it gives out on a stream for that stream."""
    with _TAKING:
        if device not in _WORKERS:
            _WORKERS[device] = {work: new_stream(device) for work in WORKERS}
        return _WORKERS[device]


def new_stream(device: Any) -> Any:
    """A stream that none of those is which an earlier call gave and somebody still refers to. Raises EngineError where
    all of the pool are held."""
    import torch

    with _TAKING:
        for _ in range(2 * POOL):  # others may take some of the round meanwhile
            stream = torch.cuda.Stream(device)
            if stream.cuda_stream not in _HELD:
                _HELD[stream.cuda_stream] = stream
                return stream
    raise EngineError(
        f"all {POOL} CUDA streams that PyTorch has are held by engines of this process; close runtimes that are no "
        "longer used"
    )
