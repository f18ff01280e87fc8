"""Published bandwidths and rates of a GPU for each target: the ceilings that kernels are held against.

Rates are dense (no structured sparsity), bf16 with float32 accumulation, at the boost clock of the data sheet; a GPU
under a power limit does not hold that clock. Each row names the NVIDIA paper that its figures are from. They were
compared with public copies of those papers' tables (hmc-tech.com for the GeForce cards and the B200, glennklockwood.com
for the H100 and B200, hpctech.co.jp for the H100) and with what follows from the chip, which a test repeats:

    rate = multiprocessors * operations a clock and multiprocessor * boost clock

Where papers differ: an HGX B200's float32 rate is 80 TFLOP/s in the architecture brief of 2024; 75 is what 148
multiprocessors at 1.98 GHz give, and what the later data sheet has. Its memory is 8 TB/s by the brief, 7.7 by others.
"""

from __future__ import annotations

from dataclasses import dataclass

from anyflow_rt.errors import UsageError


@dataclass(frozen=True)
class Gpu:
    """``memory`` in GB; ``bandwidth`` in bytes a second; the other rates in operations a second, a multiply-add being
    two."""

    name: str
    target: int
    memory: int
    bandwidth: float
    bf16: float
    int8: float
    float32: float
    source: str


GPUS = (
    Gpu("A100 SXM 80GB", 80, 80, 2.039e12, 312e12, 624e12, 19.5e12, "NVIDIA A100 Tensor Core GPU data sheet (2021)"),
    Gpu("RTX 3090", 86, 24, 0.936e12, 71e12, 284e12, 35.6e12, "NVIDIA Ampere GA102 GPU architecture, appendix A"),
    Gpu("RTX 4090", 89, 24, 1.008e12, 165.2e12, 660.6e12, 82.6e12, "NVIDIA Ada GPU architecture, appendix A"),
    Gpu("H100 SXM", 90, 80, 3.35e12, 989.4e12, 1978.9e12, 66.9e12, "NVIDIA H100 Tensor Core GPU data sheet"),
    Gpu("H200 SXM", 90, 141, 4.8e12, 989.4e12, 1978.9e12, 66.9e12, "NVIDIA H200 Tensor Core GPU data sheet"),
    Gpu("B200 (HGX)", 100, 180, 8.0e12, 2250e12, 4500e12, 75e12, "NVIDIA HGX B200 data sheet"),
    Gpu("RTX 5090", 120, 32, 1.792e12, 209.5e12, 838e12, 104.8e12, "NVIDIA RTX Blackwell GPU architecture, appendix A"),
)


def gpu_of(target: int) -> Gpu:
    """The GPU that stands for a target: the first in the table. Raises UsageError where there is none."""
    for gpu in GPUS:
        if gpu.target == target:
            return gpu
    known = ", ".join(dict.fromkeys(f"sm_{gpu.target}" for gpu in GPUS))
    raise UsageError(f"no published rates for sm_{target}; there are some for {known}")


def gpu_called(name: str, target: int) -> Gpu:
    """The GPU whose name the driver gives, or the one that stands for its target."""
    words = set(name.split())
    named = (gpu for gpu in GPUS if gpu.target == target and set(gpu.name.split()[:2]) - {"SXM", "(HGX)"} <= words)
    return next(named, None) or gpu_of(target)


def ceiling_line(gpu: Gpu, name: str | None = None) -> str:
    """What nothing on this GPU can exceed, in one line, and whose figures that is: one GPU's stand for a target.

    ``name``: the driver's, of the GPU that is measured. A card of another form (PCIe, laptop) has lower ceilings.
    """
    whose = f"sm_{gpu.target}" if name is None else f"{name} (sm_{gpu.target})"
    return (
        f"ceiling: {whose} by the figures of the {gpu.name}: {gpu.bandwidth / 1e12:.2f} TB/s, {gpu.bf16 / 1e12:.0f} "
        f"TFLOP/s bf16 (dense, float32 sums), {gpu.float32 / 1e12:.0f} TFLOP/s float32 ({gpu.source})"
    )
