"""Metrics by name. Each is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from anyflow_rt.benchmarks.metrics.contract import Metric
from anyflow_rt.errors import UsageError

_CLASSES = {
    "shapes": ("anyflow_rt.benchmarks.metrics.shapes", "Shapes"),
    "fidelity": ("anyflow_rt.benchmarks.metrics.fidelity", "Fidelity"),
    "motion": ("anyflow_rt.benchmarks.metrics.motion", "Motion"),
    "vbench": ("anyflow_rt.benchmarks.metrics.vbench", "VBench"),
}
NAMES = tuple(_CLASSES)


def metric(name: str) -> Metric:
    """A metric by its name. Raises UsageError, which lists the names, for any other."""
    if name not in _CLASSES:
        raise UsageError(f"metric {name!r} is unknown: use {', '.join(NAMES)}")
    module, created = _CLASSES[name]
    return getattr(import_module(module), created)()


def metrics(names: Sequence[str]) -> tuple[Metric, ...]:
    """Metrics in the order asked for. Raises UsageError for an unknown name, one given twice, or none at all."""
    if not names:
        raise UsageError(f"no metric asked for: use one or more of {', '.join(NAMES)}")
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise UsageError(f"metric {twice[0]!r} is asked for twice: name it once")
    return tuple(metric(name) for name in names)
