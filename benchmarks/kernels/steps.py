"""One jump of the denoiser as a list of steps: what each has to move and to multiply. Ours; ``reference`` has theirs.

A step is a launch, or several alike. Its floor on a GPU is the larger of bytes over bandwidth and operations over rate;
a jump's floor is their sum, because one step waits for the other. Its bytes are the least there are (``Work.once``):
weights and activations once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from anyflow_rt.benchmarks.kernels.gpus import Gpu
from anyflow_rt.kernels.cases import shape_cases_of
from anyflow_rt.kernels.video_shapes import Case, VideoShape
from anyflow_rt.kernels.work import Work, work_of

KINDS = ("matmul", "attention", "elementwise")


@dataclass(frozen=True)
class Step:
    """``count`` launches, each of ``bytes`` and of the operations of ``Work``: 16-bit matrix, 8-bit matrix, others."""

    name: str
    kind: str
    bytes: int
    matrix_operations: int = 0
    operations: int = 0
    int8_operations: int = 0
    count: int = 1

    def floor(self, gpu: Gpu) -> float:
        """Seconds of all its launches that no kernel on ``gpu`` can undercut."""
        return self.count * max(self._times(gpu).values())

    def limit(self, gpu: Gpu) -> str:
        """What the floor comes from."""
        times = self._times(gpu)
        return max(times, key=lambda name: times[name])

    def _times(self, gpu: Gpu) -> dict[str, float]:
        return {
            "memory": self.bytes / gpu.bandwidth,
            "matrix units": self.matrix_operations / gpu.bf16 + self.int8_operations / gpu.int8,
            "float32 units": self.operations / gpu.float32,
        }


def linear(name: str, rows: int, inputs: int, outputs: int, count: int = 1) -> Step:
    """A bf16 projection: rows x inputs times a matrix, with bias."""
    size = 2 * (rows * inputs + inputs * outputs + rows * outputs + outputs)
    return Step(name, "matmul", size, matrix_operations=2 * rows * inputs * outputs, count=count)


def op_step(shape: VideoShape, op: str, case: str, count: int = 1) -> Step:
    """A kernel of ours at ``shape``, ``count`` times."""
    found = next(each for each in shape_cases_of(op, shape) if each.name == f"{shape.name} {case}")
    return replace(launch_step(op, found), name=f"{op}: {case}", count=count)


def launch_step(op: str, case: Case) -> Step:
    """One launch of ours. It may be planned for any target: what it must move is the same."""
    kind = "attention" if op == "attention" else "elementwise"
    return work_step(f"{op}: {case.name}", kind, work_of(case.plan(**case.arguments, target=89)))


def work_step(name: str, kind: str, work: Work) -> Step:
    """A launch with this work."""
    return Step(name, kind, work.once, work.matrix_operations, work.operations, work.int8_operations)


def block_steps(shape: VideoShape) -> list[Step]:
    """One transformer block, in its order."""
    rows, width = shape.length, shape.width
    hidden = rows * shape.ffn
    return [
        linear("query, key, value", rows, width, 3 * width),
        op_step(shape, "qk_norm_rope", "halves"),
        op_step(shape, "attention", "self-attention"),
        linear("self-attention out", rows, width, width),
        op_step(shape, "adaptive_norm", "after self-attention"),
        linear("cross-attention query", rows, width, width),
        op_step(shape, "qk_norm_rope", "query alone"),
        op_step(shape, "attention", "cross-attention"),
        linear("cross-attention out", rows, width, width),
        op_step(shape, "adaptive_norm", "after cross-attention"),
        linear("FFN expand", rows, width, shape.ffn),
        Step("gelu", "elementwise", 2 * 2 * hidden, operations=10 * hidden),
        linear("FFN contract", rows, shape.ffn, width),
        op_step(shape, "adaptive_norm", "after the FFN"),
    ]


def jump_steps(shape: VideoShape) -> list[Step]:
    """A whole jump: the patches, every block, the head, the update."""
    rows, features = shape.length, shape.patch**2 * shape.channels
    state = rows * features
    blocks = [replace(step, count=shape.layers) for step in block_steps(shape)]
    return [
        Step("cast of the state", "elementwise", (4 + 2) * state),
        Step("patches", "elementwise", (2 + 2) * state),
        linear("patch embedding", rows, features, shape.width),
        op_step(shape, "adaptive_norm", "first norm1"),
        *blocks,
        linear("head", rows, shape.width, features),
        op_step(shape, "flow_map_update", "plain"),
    ]


@dataclass(frozen=True)
class Total:
    """Of some steps."""

    launches: int
    bytes: int
    matrix_operations: int

    @staticmethod
    def of(steps: Iterable[Step]) -> Total:
        """The sum."""
        listed = list(steps)
        return Total(
            sum(step.count for step in listed),
            sum(step.count * step.bytes for step in listed),
            sum(step.count * step.matrix_operations for step in listed),
        )


SHARES: dict[int, dict[str, float]] = {
    80: {"matmul": 0.75, "attention": 0.60, "elementwise": 0.85},
    86: {"matmul": 0.80, "attention": 0.70, "elementwise": 0.85},
    89: {"matmul": 0.80, "attention": 0.70, "elementwise": 0.85},
    90: {"matmul": 0.65, "attention": 0.45, "elementwise": 0.85},
    100: {"matmul": 0.65, "attention": 0.35, "elementwise": 0.80},
    120: {"matmul": 0.80, "attention": 0.65, "elementwise": 0.85},
}
"""Share of the floor's rate that a prediction assumes, by target and kind of step: assumptions, to be refuted.

Attention on sm_90: plain Triton kernels are reported at 407 to 487 TFLOP/s of 989 (bf16, heads of 128). Matrix products
on sm_90 and sm_100 run into the power limit. The rest is a guess from what such kernels reach on older GPUs."""


def predicted(steps: Iterable[Step], gpu: Gpu) -> float:
    """Seconds, if every step reaches its assumed share of its ceiling."""
    return sum(step.floor(gpu) / SHARES[gpu.target][step.kind] for step in steps)
