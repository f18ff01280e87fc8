"""Kernels run under Triton's interpreter, on any machine; ``pytest -m gpu`` runs the same tests compiled, on a GPU.

Triton decides where a kernel is defined which it is. The variable is set while kernels are imported and while a test
of this folder runs; other tests of the process do not see it. Every launch is watched: see ``support.kernels``.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.kernels import Memory

MODE = "TRITON_INTERPRET"

collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["test_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    if collect_ignore_glob:
        return
    before = os.environ.get(MODE)
    os.environ[MODE] = "0" if config.getoption("markexpr") == "gpu" else "1"
    import anyflow_rt.kernels

    for module in pkgutil.walk_packages(anyflow_rt.kernels.__path__, "anyflow_rt.kernels."):
        importlib.import_module(module.name)
    _restore(before)


def pytest_itemcollected(item: pytest.Item) -> None:
    if os.path.dirname(__file__) not in str(item.path):
        return
    from anyflow_rt.kernels.package import INTERPRETED

    if not INTERPRETED:
        item.add_marker(pytest.mark.gpu)
    if item.get_closest_marker("slow") and item.config.getoption("markexpr") != "slow":
        item.add_marker(pytest.mark.skip(reason="compiles for another target: pytest -m slow tests/kernels"))


def _restore(before: str | None) -> None:
    os.environ.pop(MODE, None)
    if before is not None:
        os.environ[MODE] = before


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    """Guards around every output; under the interpreter, a check of every address of every launch."""
    from support.kernels import Memory, checked_accesses

    from anyflow_rt.kernels import launch
    from anyflow_rt.kernels.package import INTERPRETED

    monkeypatch.setenv(MODE, str(int(INTERPRETED)))
    guarded = Memory()
    run = launch.Launch.run

    def checked_run(plan: launch.Launch) -> None:
        with checked_accesses(list(plan.tensors.values())):
            run(plan)

    monkeypatch.setattr(launch, "allocate", guarded.allocate)
    monkeypatch.setattr(launch.Launch, "run", checked_run)
    yield guarded
    guarded.check()
