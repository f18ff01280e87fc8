"""Which engine a bundle runs on here: as asked, else one built for this machine's GPU, else the CPU's fastest."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

from anyflow_rt.engines import registry
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.geometry import VideoSize, latent_size
from anyflow_rt.engines.gpu import present_target
from anyflow_rt.engines.manifest import EngineRecord
from anyflow_rt.engines.mend import build_command
from anyflow_rt.engines.tensorrt.profile_names import read_profile_name
from anyflow_rt.engines.text_weights import INT8, text_weights_of
from anyflow_rt.errors import BundleError, EngineError

INTERPRETED = "TRITON_INTERPRET"
"""Where this is 1, Triton's kernels run on a CPU, in Python, even beside a GPU: enough for the smallest checkpoints.

That is far too slow to be taken unless ``triton`` is asked for by name."""
SIZES = ("num_frames", "height", "width")


@dataclass(frozen=True)
class Call:
    """What calls will be like; None is the bundle's own. videos: of one call. prompts: that each is guided by, 2 where
    there is guidance. in_time: its chunks have deadlines."""

    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    videos: int = 1
    prompts: int = 1
    in_time: bool = False

    def size(self, default: VideoSize) -> VideoSize:
        """Of its videos, where those that say nothing are of the size ``default``."""
        given = {name: value for name in SIZES if (value := getattr(self, name)) is not None}
        return replace(default, **given)


USUAL_CALL = Call()


@dataclass(frozen=True)
class Choice:
    """An engine and its precision. record: the manifest's, whose files it opens; None: it opens the graphs.

    note: for the user, where it is a second choice.
    """

    engine: str
    precision: str
    record: EngineRecord | None = None
    note: str | None = None


def choose(
    bundle: Bundle, engine: str | None = None, precision: str | None = None, *, call: Call = USUAL_CALL
) -> Choice:
    """What ``engine`` and ``precision``, or None for either, mean for ``bundle`` on this machine.

    Of several engines for the GPU, the smallest that is built for ``call``, made of the text encoder that the bundle
    has now, without what is still on trial; where none is built for it, the run itself says what to do.

    Raises UsageError for names that are none and for sizes that the checkpoint cannot make; for a GPU's engine
    EngineError without a GPU, BundleError where the bundle has none for it. Each names the mend.
    """
    if engine is not None:
        registry.check_engine_name(engine)
    if call != USUAL_CALL:
        latent_size(bundle.architecture, call.size(bundle.defaults.size))
    if engine is None or registry.for_gpu(engine):
        record = _record(bundle, engine, precision, call)
        if record is not None:
            return Choice(record.engine, record.precision, record)
    engine = registry.default_engine() if engine is None else engine
    usual, note = registry.default_precision(engine)
    registry.check_precision(engine, usual if precision is None else precision)
    return Choice(engine, usual, note=note) if precision is None else Choice(engine, precision)


def _record(bundle: Bundle, engine: str | None, precision: str | None, call: Call) -> EngineRecord | None:
    """The manifest's record to be opened; None, unless ``engine`` is a GPU's, to run on the CPU."""
    built = [each for each in bundle.manifest.engines if registry.for_gpu(each.engine)]
    if engine is None and _interpreted():
        built = [each for each in built if each.engine != "triton"]
    if engine is None and not built:
        return None
    target = present_target()
    asked = [each for each in built if engine in (None, each.engine)]
    if engine is not None:
        if precision is not None:
            registry.check_precision(engine, precision)
        asked = _runnable(bundle, engine, asked, target)
    else:
        asked = [each for each in asked if read_profile_name(each.profile).runs_on(each.target, target)]
    fitting = [each for each in asked if precision in (None, each.precision)]
    if asked and not fitting and engine is not None:
        raise BundleError(
            f"the bundle {bundle.path} has {_words(asked)}, and precision {precision} was asked for; "
            f"run one of them, or add it: {_add(bundle, asked[0].target, engine)} --precision {precision}"
        )
    return min(fitting, key=lambda each: _unfit(bundle, each, target, call), default=None)


def _unfit(bundle: Bundle, record: EngineRecord, target: str | None, call: Call) -> tuple[bool | int | str, ...]:
    """What speaks against ``record``, the gravest first."""
    name = read_profile_name(record.profile)
    int8 = text_weights_of(bundle.manifest.components) == INT8
    causal = bundle.architecture.causal is not None
    takes = name.takes(call.size(bundle.defaults.size), call.videos, causal=causal)
    return (
        not takes,
        record.precision != registry.default_precision(record.engine)[0],
        record.engine,
        bool(name.sizes) and (f"{INT8}_text" in name.marks) != int8,
        any(mark.startswith("triton_") for mark in name.marks),
        "all_keys" in name.marks,
        record.target != target,
        len(name.sizes),
        name.largest if takes else -name.largest,
    )


def _runnable(bundle: Bundle, engine: str, built: list[EngineRecord], target: str | None) -> list[EngineRecord]:
    """Those of one engine that can run here. Raises where none can."""
    if engine == "triton" and _interpreted():
        here = built
    elif target is None:
        raise EngineError(
            f"the {engine} engine needs an NVIDIA GPU and this machine shows none; leave out --engine {engine} to run "
            "on the CPU, or run on the GPU's machine"
        )
    else:
        here = [each for each in built if read_profile_name(each.profile).runs_on(each.target, target)]
    if here:
        return here
    has = f" (it has {_words(built)})" if built else ""
    raise BundleError(
        f"the bundle {bundle.path} has no {engine} engine for {target or 'any GPU'}{has}; add it with  "
        f"{_add(bundle, target or 'sm_89', engine)}"
    )


def _interpreted() -> bool:
    return os.environ.get(INTERPRETED) == "1"


def _add(bundle: Bundle, target: str, engine: str) -> str:
    source = bundle.manifest.checkpoint
    return f"{build_command(bundle.path, source.id, source.revision)} --target {target} --engine {engine}"


def _words(records: Iterable[EngineRecord]) -> str:
    return ", ".join(f"{each.target} {each.engine} {each.precision}" for each in records)
