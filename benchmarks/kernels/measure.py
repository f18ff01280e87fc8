"""Every op timed on the GPU that is here, behind a check of its results. Not yet run on a GPU: unverified.

A launch is timed by events on the GPU's own clock, one launch at a time. Before each, a gigabyte is overwritten, many
times the L2 cache, so that inputs come from memory, as they do between the layers of a real model; the processor queues
the launch while that goes on, so its own delay is not in the time. Reported are the median, the extremes and n.

Attention with 8-bit scores is timed twice: its own launch, and all that a caller waits for: the keys' mean, the
rounding of queries and keys, and that launch.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from anyflow_rt.benchmarks.kernels import jump
from anyflow_rt.benchmarks.kernels.gpus import Gpu, gpu_called
from anyflow_rt.benchmarks.kernels.parity import Parity, parity_of, with_numbers
from anyflow_rt.benchmarks.kernels.steps import Step, jump_steps, predicted, work_step
from anyflow_rt.errors import EngineError
from anyflow_rt.kernels.attention.int8 import attention_int8, plan_attention_int8
from anyflow_rt.kernels.launch import Launch
from anyflow_rt.kernels.video_shapes import Case, VideoShape
from anyflow_rt.kernels.work import stored_bytes, work_of

WARM_UP = 5

FLOOD_BYTES = 1 << 30
"""Overwritten before each launch; eight times the largest L2 cache of the targets (126 MB, a B200's)."""

REFUTED = 0.25
"""How far a measured jump may be from the prediction, over the prediction (docs/performance.md)."""


@dataclass(frozen=True)
class Timing:
    """Seconds of each timed launch, and the floor."""

    op: str
    case: str
    who: str
    seconds: tuple[float, ...]
    floor: float
    parity: Parity | None

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    def to_dict(self) -> dict[str, Any]:
        """One line of ``--json``."""
        return {
            "op": self.op,
            "config": self.case,
            "who": self.who,
            "seconds": list(self.seconds),
            "median": self.median,
            "floor": self.floor,
            "share_of_floor": self.floor / self.median,
            "parity": None if self.parity is None else dataclasses.asdict(self.parity),
        }

    def __str__(self) -> str:
        low, high = 1e3 * min(self.seconds), 1e3 * max(self.seconds)
        error = "" if self.parity is None else f"  error {self.parity.error:.1e} (allowed {self.parity.allowed:.1e})"
        return (
            f"{1e3 * self.median:9.4f} ms ({low:.4f} to {high:.4f}, n {len(self.seconds)})  floor "
            f"{1e3 * self.floor:.4f} ms: {self.floor / self.median:4.0%} of it reached  {self.op}: {self.case}, "
            f"{self.who}{error}"
        )


def require_gpu() -> tuple[str, Gpu]:
    """The driver's name of the GPU that is here, and the figures it is held against. Raises EngineError, in one line,
    where there is none."""
    from anyflow_rt.kernels.package import INTERPRETED

    if not torch.cuda.is_available():
        why = "torch sees no NVIDIA GPU" if torch.version.cuda else f"torch {torch.__version__} is built without CUDA"
        raise EngineError(f"{why}, and times need one; --static and --roofline need none")
    if INTERPRETED:
        raise EngineError("TRITON_INTERPRET is set, and interpreted kernels have no times; unset it")
    major, minor = torch.cuda.get_device_capability()
    name: str = torch.cuda.get_device_name()
    return name, gpu_called(name, 10 * major + minor)


def timings(cases: list[tuple[str, Case]], gpu: Gpu, rounds: int) -> Iterator[Timing]:
    """Ours, then the peers', case by case. Raises ParityError before any time of an op whose results are wrong."""
    for op, case in cases:
        arguments = {
            name: with_numbers(value, seed, "cuda") for seed, (name, value) in enumerate(case.arguments.items())
        }
        launch: Launch = case.plan(**arguments)
        launch.run()
        parity = parity_of(op, launch, arguments)
        parity.require(f"{op}: {case.name}")
        floor = work_step(case.name, op, work_of(launch)).floor(gpu)
        yield Timing(op, case.name, "ours", seconds_of(launch.run, rounds), floor, parity)
        if "query_scale" in launch.tensors:
            whole = partial(attention_int8, **arguments)
            floor = sum(step.floor(gpu) for step in int8_steps(arguments))
            yield Timing(op, case.name, "ours, rounding included", seconds_of(whole, rounds), floor, parity)
        for name, call in _peers(launch, arguments).items():
            yield Timing(op, case.name, name, seconds_of(call, rounds), floor, None)


def jump_timings(shapes: Iterable[VideoShape], gpu: Gpu, rounds: int, say: Callable[[str], None]) -> Iterator[Timing]:
    """A whole jump at each of ``shapes`` that fits; ``say`` gets prediction and floor before it, or why there is none.
    Raises ParityError before any time if z_r is wrong."""
    for shape in shapes:
        reason = jump.why_not(shape, *jump.free_bytes())
        if reason is None:
            yield from _jump_timing(shape, gpu, rounds, say)
        else:
            say(f"whole jump, {shape.name}: not timed, {reason}")


def _jump_timing(shape: VideoShape, gpu: Gpu, rounds: int, say: Callable[[str], None]) -> Iterator[Timing]:
    steps = jump_steps(shape)
    floor, planned = sum(step.floor(gpu) for step in steps), predicted(steps, gpu)
    say(f"whole jump, {shape.name}: floor {floor:.4f} s, predicted {planned:.4f} s (docs/performance.md)")
    major, minor = torch.cuda.get_device_capability()
    with jump.prepared(shape, torch.device("cuda"), 10 * major + minor) as made, jump.opened(made) as engine:
        parity = made.parity(engine.infer(**made.arrays)["z_r"])
        parity.require(f"whole jump: {shape.name}")
        tensors = made.on_device("cuda")
        seconds = seconds_of(lambda: engine.infer(**tensors), rounds)
    timing = Timing("jump", shape.name, "ours", seconds, floor, parity)
    yield timing
    verdict = "refuted" if abs(timing.median / planned - 1) > REFUTED else "confirmed"
    say(f"whole jump, {shape.name}: {timing.median / planned:.2f} times the prediction, which is {verdict}")


def int8_steps(arguments: dict[str, Any]) -> list[Step]:
    """All of attention with 8-bit scores: the mean (keys read once), the rounding of both, attention itself."""
    key, launches = arguments["key"], plan_attention_int8(**arguments)
    mean = Step("mean of the keys", "elementwise", stored_bytes(key), operations=key.numel())
    return [mean, *(work_step(launch.kernel.op, "attention", work_of(launch)) for launch in launches)]


def seconds_of(call: Callable[[], object], rounds: int) -> tuple[float, ...]:
    """Of each of ``rounds`` calls on the GPU, after ``WARM_UP`` that do not count, each with a cold cache."""
    flood = torch.empty(FLOOD_BYTES, dtype=torch.uint8, device="cuda")
    found = []
    for number in range(WARM_UP + rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flood.zero_()
        start.record()
        call()
        end.record()
        end.synchronize()
        if number >= WARM_UP:
            found.append(start.elapsed_time(end) / 1e3)
    return tuple(found)


def _peers(launch: Launch, arguments: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """Attention of PyTorch, and of flash-attn where it is installed and can do the same."""
    if "output" not in launch.tensors or arguments.get("chunks"):
        return {}
    query, key, value = (arguments[name] for name in ("query", "key", "value"))
    bias = arguments.get("key_bias")
    mask = None if bias is None else bias[:, None, None, :].to(query.dtype)
    peers: dict[str, Callable[[], object]] = {
        "PyTorch": lambda: F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    }
    try:
        from flash_attn import flash_attn_func
    except ImportError:
        return peers
    if bias is None:
        swapped = [x.transpose(1, 2) for x in (query, key, value)]
        peers["flash-attn"] = lambda: flash_attn_func(*swapped)
    return peers
