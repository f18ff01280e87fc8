"""One call at a time: a runtime's engines are shared between its calls, and a second one is refused, not mixed in."""

from __future__ import annotations

import threading
from types import TracebackType

from anyflow_rt.errors import UsageError


class Turn:
    """A context of one call. Raises UsageError where another is still in it: a stream, or a call in another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise UsageError(
                "this runtime is in use: a stream is open, or a call in another thread goes on; read the stream to its "
                "end or close it first, or load a second runtime"
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
