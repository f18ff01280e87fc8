"""The tables of ``docs/performance.md``, made from the same code as ``bench kernels --roofline``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from anyflow_rt.benchmarks.kernels.gpus import Gpu, gpu_of
from anyflow_rt.benchmarks.kernels.jump import disk_of
from anyflow_rt.benchmarks.kernels.reference import reference_block, reference_jump
from anyflow_rt.benchmarks.kernels.steps import KINDS, SHARES, Step, Total, block_steps, jump_steps, predicted
from anyflow_rt.errors import UsageError
from anyflow_rt.kernels.video_shapes import LARGE, SMALL

TARGETS = (89, 90, 120)
DOUBTFUL = 0.8
"""Share of a GPU's memory that weights may take before what else a run holds may not fit."""
SHAPES = (SMALL, LARGE)
BEGIN = "<!-- made by  python -m anyflow_rt.benchmarks.kernels docs/performance.md -->"
END = "<!-- end of what is made -->"


def tables() -> str:
    """All of them, as Markdown."""
    ours = {shape.name: (block_steps(shape), jump_steps(shape)) for shape in SHAPES}
    theirs = {shape.name: (reference_block(shape), reference_jump(shape)) for shape in SHAPES}
    return "\n\n".join(
        (
            "### One block: launches and bytes\n\n" + _blocks(ours, theirs),
            "### One jump: floor and prediction\n\n" + _jumps(ours, theirs),
            "### Assumed shares of the ceiling\n\n" + _shares(),
            "### Floor of each step of a block\n\n" + _floors(ours),
        )
    )


def written(text: str) -> str:
    """``text`` with the tables in their place. Raises UsageError where it has no place for them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UsageError(f"the document has no lines {BEGIN!r} and {END!r}; the tables go between them")
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def write(path: Path) -> None:
    """Put the tables into the document."""
    path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")


Ledgers = dict[str, tuple[list[Step], list[Step]]]


def _blocks(ours: Ledgers, theirs: Ledgers) -> str:
    rows = []
    for name in ours:
        for who, (block, _) in (("diffusers", theirs[name]), ("anyflow-rt", ours[name])):
            total = Total.of(block)
            parts = [f"{Total.of(s for s in block if s.kind == kind).bytes / 1e9:.2f}" for kind in KINDS]
            rows.append(
                (name, who, total.launches, f"{total.bytes / 1e9:.2f}", *parts, f"{total.matrix_operations / 1e12:.2f}")
            )
    return _table(("shape", "", "launches", "GB", *(f"{kind}, GB" for kind in KINDS), "TFLOP"), rows)


def _jumps(ours: Ledgers, theirs: Ledgers) -> str:
    rows = []
    for shape in SHAPES:
        name = shape.name
        for target in TARGETS:
            gpu, our, their = gpu_of(target), ours[name][1], theirs[name][1]
            floor, seconds, reference = sum(s.floor(gpu) for s in our), predicted(our, gpu), predicted(their, gpu)
            rows.append(
                (
                    name,
                    f"sm_{target} {gpu.name}",
                    _held(disk_of(shape) / 1e9, gpu),
                    f"{floor:.3f}",
                    f"{seconds:.2f}",
                    f"{reference:.2f}",
                    f"{reference / seconds:.2f}",
                    Total.of(our).launches,
                    Total.of(their).launches,
                )
            )
    header = (
        "shape",
        "GPU",
        "weights",
        "floor, s",
        "predicted, s",
        "diffusers, s",
        "ratio",
        "launches",
        "diffusers' launches",
    )
    return _table(header, rows)


def _held(weights: float, gpu: Gpu) -> str:
    """Weights in bf16, in GB, and whether the GPU can hold them: activations, keys and the decoder come beside them."""
    share = weights / gpu.memory
    said = ": do not fit" if share > 1 else ": doubtful" if share > DOUBTFUL else ""
    return f"{weights:.1f} of {gpu.memory} GB{said}"


def _shares() -> str:
    return _table(("target", *KINDS), [(f"sm_{target}", *SHARES[target].values()) for target in TARGETS])


def _floors(ours: Ledgers) -> str:
    rows = []
    for name, (block, _) in ours.items():
        for step in block:
            times = (f"{1e3 * step.floor(gpu_of(target)):.3f}" for target in TARGETS)
            rows.append((name, step.name, f"{step.bytes / 1e6:.0f}", f"{step.matrix_operations / 1e9:.0f}", *times))
    return _table(("shape", "step", "MB", "GFLOP", *(f"sm_{target}, ms" for target in TARGETS)), rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
