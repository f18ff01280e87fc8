"""Who makes an engine's files for a GPU that need not be here: one builder an engine, all behind one signature."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.checkpoint import Checkpoint
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.engines.tensorrt.settings import TensorRtSettings
from anyflow_rt.errors import MissingPackageError, UsageError

Report = Callable[[str], object]
Progress = Callable[[str, int, int], object]


@dataclass(frozen=True)
class BuildSource:
    """What engines are made from: the checkpoint's weights, and a draft of the bundle with the graphs of them all.

    checkpoint None: only the graphs are here, for builders that take them. tensorrt: what was chosen about engines of
    TensorRT; the others read none of it. progress: gets what is being made, how many parts of it are, and of how many.
    size: that engines are made for; None is the bundle's own.
    """

    checkpoint: Checkpoint | None
    bundle: Bundle
    tensorrt: TensorRtSettings = field(default_factory=TensorRtSettings)
    progress: Progress = lambda what, done, total: None
    size: VideoSize | None = None


@dataclass(frozen=True)
class Builder:
    """One engine's.

    targets, precisions: those it has, the usual precision first. packages: modules it needs, and ``extra`` of ours
    that has them. build: (source, target, precision, folder, report) writes ``<component>.*`` and whatever else the
    engine reads into the empty ``folder``, and gives the package versions that the files depend on. unusual: the usual
    precision of targets that lack the first. profile: what the manifest calls engines made for a size. check: raises
    for settings that its engines for a target cannot have, before any work. ready: raises unless this machine can make
    engines for a target. from_graphs: they are made of the bundle's graphs, and need no checkpoint.
    """

    targets: tuple[str, ...]
    precisions: tuple[str, ...]
    packages: tuple[str, ...]
    extra: str
    build: Callable[[BuildSource, str, str, Path, Report], dict[str, str]]
    unusual: Mapping[str, str] = field(default_factory=dict)
    profile: Callable[[VideoSize, TensorRtSettings], str] = lambda size, settings: "dynamic"
    check: Callable[[str, TensorRtSettings], None] = lambda target, settings: None
    ready: Callable[[str], None] = lambda target: None
    from_graphs: bool = False

    def usual_precision(self, target: str) -> str:
        """The precision of engines for ``target`` where none is asked for."""
        return self.unusual.get(target, self.precisions[0])


def _triton() -> Builder:
    from anyflow_rt.engines.triton_build import BUILDER

    return BUILDER


def _tensorrt_rtx() -> Builder:
    from anyflow_rt.engines.tensorrt.builders import RTX_BUILDER

    return RTX_BUILDER


def _tensorrt() -> Builder:
    from anyflow_rt.engines.tensorrt.builders import ENTERPRISE_BUILDER

    return ENTERPRISE_BUILDER


_BUILDERS: dict[str, Callable[[], Builder]] = {
    "tensorrt_rtx": _tensorrt_rtx,
    "triton": _triton,
    "tensorrt": _tensorrt,
}

GPU_ENGINES = tuple(_BUILDERS)
"""Engines that are built for a target; the first that has it, and is installed, is taken where none is asked for."""


def default_builder(target: str, *, from_graphs: bool = False) -> str:
    """The engine made for ``target`` unless another is asked for: the first that is installed, else the first.

    from_graphs: of those that need no checkpoint. Raises UsageError where none has the target.
    """
    able = {name: each for name, each in builders_of(target).items() if each.from_graphs or not from_graphs}
    if able:
        installed = (name for name, each in able.items() if all(map(importlib.util.find_spec, each.packages)))
        return next(installed, next(iter(able)))
    raise UsageError(f"no engine can be built for target {target!r} yet; {_offers()}")


def builders_of(target: str) -> dict[str, Builder]:
    """The engines that can be built for ``target``, the usual one first; none where nobody knows the target."""
    made = {name: builder() for name, builder in _BUILDERS.items()}
    return {name: each for name, each in made.items() if target in each.targets}


def builder_for(engine: str, target: str, precision: str | None = None) -> Builder:
    """The builder of ``engine``. Raises UsageError, with what there is, where it lacks target or precision."""
    builder = _BUILDERS[engine]()
    if target not in builder.targets:
        raise UsageError(f"the {engine} engine cannot be built for target {target!r}; {_offers()}")
    if precision is not None and precision not in builder.precisions:
        precisions = ", ".join(builder.precisions)
        raise UsageError(f"the {engine} engine has no precision {precision!r}; it has {precisions}")
    if precision == builder.precisions[0] != builder.usual_precision(target):
        raise UsageError(f"{target} has no {precision}; use --precision {builder.usual_precision(target)}")
    return builder


def require_builder_packages(engine: str, target: str) -> None:
    """Raise MissingPackageError, with the line that mends it, unless all that building takes is installed."""
    builder = builder_for(engine, target)
    for package in builder.packages:
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(package, builder.extra, f"building the {engine} engine")


def _offers() -> str:
    return "; ".join(f"{name} has {', '.join(builder().targets)}" for name, builder in _BUILDERS.items())
