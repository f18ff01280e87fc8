"""Closing what is still being opened: with and without waiting."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anyflow_rt import components
from anyflow_rt.components import Components


@pytest.mark.parametrize("wait", [False, True])
def test_engines_that_open_later_are_released_too(monkeypatch: pytest.MonkeyPatch, wait: bool) -> None:
    may_open, closed, begun = threading.Event(), [], threading.Semaphore(0)

    def opening(*arguments: Any, **options: Any) -> Any:
        begun.release()
        assert may_open.wait(30)
        return SimpleNamespace(close=lambda: closed.append(1))

    monkeypatch.setattr(components.registry, "open_engine", opening)
    bundle: Any = SimpleNamespace(component_path=Path, component_hash=str, architecture=SimpleNamespace(causal=None))
    opened = Components(bundle, "onnxruntime", "fp32", None)
    for _ in range(2):
        begun.acquire()
    if wait:
        threading.Timer(0.05, may_open.set).start()
        opened.close()
    else:
        opened.close(wait=False)
        assert not closed and not may_open.is_set(), "who has an error to tell does not wait"
        may_open.set()
        opened._pool.shutdown()
    assert len(closed) == 2, "the two that were being opened; the others never were"
