"""Signals while TensorRT works are kept, and raised where an exception gets through."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from anyflow_rt.engines.tensorrt.interrupts import SIGNALS, kept_interrupts
from anyflow_rt.errors import EngineError


@pytest.fixture(autouse=True)
def handled() -> Iterator[None]:
    """As the command sets them."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_raised_at_the_end(number: signal.Signals) -> None:
    done = False
    with pytest.raises(KeyboardInterrupt), kept_interrupts() as kept:
        os.kill(os.getpid(), number)
        done = isinstance(kept.error, KeyboardInterrupt)
    assert done and signal.getsignal(number) is signal.default_int_handler


def test_it_goes_before_an_error_that_it_caused() -> None:
    with pytest.raises(KeyboardInterrupt), kept_interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
        raise EngineError("TensorRT said that it was cancelled")
    with pytest.raises(EngineError), kept_interrupts():
        raise EngineError("no signal came")


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with kept_interrupts() as kept:
        os.kill(os.getpid(), signal.SIGHUP)
    assert kept.error is None and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_other_threads_change_nothing() -> None:
    seen = []

    def work() -> None:
        with kept_interrupts():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
