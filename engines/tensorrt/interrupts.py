"""Ctrl-C and SIGTERM while TensorRT works: kept until it is done, as no exception passes through it.

It calls back into Python, for its progress, its messages and what it writes; what is raised there is printed and
forgotten, and a signal's handler raises wherever Python happens to be.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Kept:
    """What a signal's handler raised, None where none did."""

    error: BaseException | None = None


@contextlib.contextmanager
def kept_interrupts() -> Iterator[Kept]:
    """What handlers of ``SIGNALS`` raise within the block is kept in ``error``, and raised at its end.

    Outside the main thread no handler runs, and nothing is changed.
    """
    kept = Kept()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ours = {number: handler for number, handler in before.items() if callable(handler)}

    def keep(number: int, frame: FrameType | None) -> None:
        try:
            ours[signal.Signals(number)](number, frame)
        except BaseException as error:  # noqa: BLE001 - raised at the end of the block
            kept.error = error

    if threading.current_thread() is not threading.main_thread():
        ours = {}
    for number in ours:
        signal.signal(number, keep)
    try:
        yield kept
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
        if kept.error is not None:
            raise kept.error
