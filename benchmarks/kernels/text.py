"""The tables of ``bench kernels``, as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from anyflow_rt.benchmarks.kernels.gpus import Gpu, ceiling_line
from anyflow_rt.benchmarks.kernels.steps import Step, Total, predicted
from anyflow_rt.kernels.figures import Figures

STATIC_HEADER = (
    "target  regs  spill B  stack  shared KB  occupancy  B/element (least)   16-byte  tensor  op: case\n"
    "                                 dyn+stat    blocks x warps                share    share"
)


def static_line(figures: Figures) -> str:
    """One kernel on one target."""
    used, traffic, work = figures.resources, figures.traffic, figures.work
    moved = "-"
    if traffic is not None and work is not None:
        moved = f"{traffic.moved / work.elements:.3f} ({traffic.once / work.elements:.3f})"
    shared = f"{used.shared_bytes / 1024:.1f}+{used.static_shared_bytes / 1024:.1f}"
    blocks = f"{used.occupancy:4.0%} {used.blocks_per_multiprocessor}x{figures.kernel.warps}"
    return (
        f"sm_{figures.kernel.target:<4} {used.registers:4}  {used.spill_bytes:7}  {used.stack_bytes:5}  {shared:>9}"
        f"  {blocks:>9}  {moved:>18}  {figures.wide_share:7.1%}  {figures.tensor_core_share:6.1%}"
        f"  {figures.op}: {figures.case}"
    )


def launch_lines(gpu: Gpu, steps: Sequence[Step]) -> Iterator[str]:
    """The ceiling first, then the floor of each launch."""
    yield ceiling_line(gpu)
    yield from map(partial(_floor_line, gpu), steps)


def _floor_line(gpu: Gpu, step: Step) -> str:
    operations = step.matrix_operations + step.int8_operations
    return (
        f"  {1e3 * step.floor(gpu) / step.count:9.4f} ms  x {step.count:<3} {step.bytes / 1e6:9.1f} MB "
        f"{operations / 1e9:9.1f} GFLOP  {step.name} ({step.limit(gpu)})"
    )


def roofline_lines(gpu: Gpu, title: str, steps: Sequence[Step]) -> Iterator[str]:
    """The ceiling first, then the floor of every step of a jump, then of all of it."""
    yield ceiling_line(gpu)
    yield f"floors of {title}, one jump"
    yield from map(partial(_floor_line, gpu), steps)
    total, floor = Total.of(steps), sum(step.floor(gpu) for step in steps)
    yield (
        f"  {floor:.3f} s floor of the jump: {total.launches} launches, {total.bytes / 1e9:.0f} GB, "
        f"{total.matrix_operations / 1e12:.0f} TFLOP; predicted {predicted(steps, gpu):.2f} s"
    )
