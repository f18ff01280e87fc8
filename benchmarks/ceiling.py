"""How fast this machine multiplies matrices: the ceiling that a transformer's speed is held against.

Measured in the same run as what it is compared with, since it moves with the clock and with the neighbours. The rate
at a precision is the best of two libraries (OpenVINO, torch) and two shapes (square, and a feed-forward layer's).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from anyflow_rt.benchmarks.measure import Sample
from anyflow_rt.benchmarks.optional import optional_module
from anyflow_rt.errors import MissingPackageError

SHAPES = ((2048, 2048, 2048), (1280, 1536, 8960))
"""Rows, inner size, columns: one near-ideal product, and one of the size that a denoiser spends its time in."""
CHAIN = 4
"""Products in one call (there and back), so that converting the input and the result costs next to nothing."""
REPETITIONS = 5


@dataclass(frozen=True)
class Ceiling:
    """GFLOP/s at one precision, of each library and shape."""

    precision: str
    samples: tuple[Sample, ...]

    @property
    def rate(self) -> float:
        """The best that any of them sustained (median), in GFLOP/s."""
        return max(sample.median for sample in self.samples)

    def __str__(self) -> str:
        best = max(self.samples, key=lambda sample: sample.median)
        return f"ceiling {self.precision}: {self.rate:.0f} GFLOP/s ({best.name})"


def measure(precision: str) -> Ceiling:
    """The matrix product rate at ``fp32`` or ``bf16``, by the libraries that are installed.

    Raises MissingPackageError where there is none.
    """
    samples: list[Sample] = []
    absent: MissingPackageError | None = None
    for shape in SHAPES:
        generator = np.random.default_rng(0)
        rows, inner, columns = shape
        left = generator.standard_normal((rows, inner), np.float32)
        weights = [
            generator.standard_normal((inner, columns), np.float32) / inner**0.5,
            generator.standard_normal((columns, inner), np.float32) / columns**0.5,
        ]
        for name, make in (("openvino", _openvino), ("torch", _torch)):
            label = f"{name} {precision} matmul {rows}x{inner}x{columns}"
            try:
                multiply = make(precision, left, weights)
            except MissingPackageError as error:
                absent = error
                continue
            samples.append(Sample(label, _rates(multiply, shape), "GFLOP/s"))
    if absent is not None and not samples:
        raise absent
    return Ceiling(precision, tuple(samples))


def _rates(multiply: Callable[[], object], shape: tuple[int, int, int]) -> tuple[float, ...]:
    """GFLOP/s of several calls, after one that warms up. A multiply-add counts two."""
    rows, inner, columns = shape
    operations = 2.0 * rows * inner * columns * CHAIN
    multiply()
    found = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        multiply()
        found.append(operations / (time.perf_counter() - start) / 1e9)
    return tuple(found)


def _openvino(precision: str, left: np.ndarray, weights: list[np.ndarray]) -> Callable[[], object]:
    """The weights are constants, as a network's are: OpenVINO packs them when it compiles."""
    from anyflow_rt.engines.openvino_package import core, import_openvino

    openvino = import_openvino()
    from openvino import opset13

    rows = opset13.parameter(left.shape, np.float32)
    product = rows
    for index in range(CHAIN):
        product = opset13.matmul(product, opset13.constant(weights[index % 2]), False, False)
    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    request = core().compile_model(openvino.Model([product], [rows]), "CPU", settings).create_infer_request()
    return lambda: request.infer([left], share_inputs=True, share_outputs=True)


def _torch(precision: str, left: np.ndarray, weights: list[np.ndarray]) -> Callable[[], object]:
    torch = optional_module("torch", "the machine's matrix product rate")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    rows, matrices = torch.from_numpy(left).to(dtype), [torch.from_numpy(each).to(dtype) for each in weights]

    def multiply() -> object:
        product = rows
        for index in range(CHAIN):
            product = product @ matrices[index % 2]
        return product

    return multiply
