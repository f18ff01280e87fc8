"""Every op timed on the GPU that is here, behind a check of its results. Not yet run on a GPU: unverified.

A launch is timed by events on the GPU's own clock, one launch at a time. Before each, a buffer of four times the L2
cache is overwritten, so that inputs come from memory, as they do between the layers of a real model; the processor
queues the launch while that goes on, so its own delay is not in the time. Reported are the median, the extremes and n.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from anyflow_rt.benchmarks.kernels.gpus import Gpu, gpu_called
from anyflow_rt.benchmarks.kernels.parity import Parity, parity_of, with_numbers
from anyflow_rt.benchmarks.kernels.steps import work_step
from anyflow_rt.errors import EngineError, ParityError, UsageError
from anyflow_rt.kernels.launch import Launch
from anyflow_rt.kernels.video_shapes import Case
from anyflow_rt.kernels.work import work_of

WARM_UP = 5
FEWEST_ROUNDS = 5


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


def require_gpu() -> Gpu:
    """The GPU that is here. Raises EngineError, in one line, where there is none."""
    from anyflow_rt.kernels.package import INTERPRETED

    if not torch.cuda.is_available():
        why = "torch sees no NVIDIA GPU" if torch.version.cuda else f"torch {torch.__version__} is built without CUDA"
        raise EngineError(f"{why}, and times need one; --static and --roofline need none")
    if INTERPRETED:
        raise EngineError("TRITON_INTERPRET is set, and interpreted kernels have no times; unset it")
    major, minor = torch.cuda.get_device_capability()
    return gpu_called(torch.cuda.get_device_name(), 10 * major + minor)


def timings(cases: list[tuple[str, Case]], gpu: Gpu, rounds: int) -> Iterator[Timing]:
    """Ours, then the peers', case by case. Raises ParityError before any time of an op whose results are wrong."""
    if rounds < FEWEST_ROUNDS:
        raise UsageError(f"--rounds is {rounds}; give at least {FEWEST_ROUNDS}")
    for op, case in cases:
        arguments = {
            name: with_numbers(value, seed, "cuda") for seed, (name, value) in enumerate(case.arguments.items())
        }
        launch: Launch = case.plan(**arguments)
        launch.run()
        parity = parity_of(op, launch, arguments)
        if parity.error > parity.allowed:
            raise ParityError(
                f"{op}: {case.name} is off by {parity.error:.2e} (allowed {parity.allowed:.2e}); no times"
            )
        floor = work_step(case.name, op, work_of(launch)).floor(gpu)
        yield Timing(op, case.name, "ours", _seconds(launch.run, rounds), floor, parity)
        for name, call in _peers(launch, arguments).items():
            yield Timing(op, case.name, name, _seconds(call, rounds), floor, None)


def _seconds(call: Callable[[], object], rounds: int) -> tuple[float, ...]:
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    flood = torch.empty(4 * max(cache, 1 << 24), dtype=torch.uint8, device="cuda")
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
