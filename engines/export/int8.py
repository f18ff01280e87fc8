"""Weights of a graph's products as 8-bit integers, in the graph: what reads them is a ``DequantizeLinear``.

1. The right side of a ``MatMul`` that is a stored matrix, also behind a ``Cast`` or a ``Transpose``, becomes int8 with
   a scale for each output channel. Activations, norms, biases and the table of embeddings stay as they are.
2. A scale is the smallest number with bfloat16's eight bits that lets 127 of it reach the channel's largest weight: the
   same in float32, bfloat16 and float16, so that no type an engine computes in adds an error of its own.
3. Weights are read, rounded and written one at a time.

Rounding is to the nearest integer, without calibration: weights only, as in LLM.int8() (Dettmers et al. 2022) without
its activations.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from anyflow_rt.engines.text_weights import INT8_RECORD
from anyflow_rt.engines.typed.weights import drop_unused_weights

LEAST_SIZE = 1 << 10
"""Numbers of a matrix below which nothing is gained."""
_LEVELS = 127
_WIDENED = 1 << 22
"""Numbers that are widened at a time."""


@dataclass(frozen=True)
class Quantised:
    """products: whose weights are integers now. error: of all their weights together, relative RMS."""

    products: int
    error: float


def quantise_weights(path: Path) -> Quantised:
    """Change the ONNX file ``path``, its weights in ``<path>.data``, in place, and write ``INT8_RECORD`` beside it."""
    model = ir.load(path)
    errors = _Errors()
    found: dict[ir.Value, ir.Value] = {}
    for node in list(model.graph):
        if node.op_type == "MatMul" and (chain := _stored_matrix(node.inputs[1])) is not None:
            stored, readers = chain
            if stored not in found:
                found[stored] = _dequantised(model.graph, stored, _output_axis(readers), errors)
            _read_instead(model.graph, stored, found[stored], readers)
    drop_unused_weights(model.graph)
    with tempfile.TemporaryDirectory(prefix=".int8-", dir=path.parent) as name:
        written = Path(name) / path.name
        ir.save(model, written, external_data=f"{path.name}.data")
        for file in (written, written.with_name(f"{path.name}.data")):
            file.replace(path.with_name(file.name))
    done = Quantised(len(found), errors.relative)
    text = json.dumps({"schema": 1, "products": done.products, "relative_error": done.error})
    (path.parent / INT8_RECORD).write_text(text + "\n", encoding="utf-8")
    return done


def quantise(matrix: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers (int8) and scales (float32, one for each place along ``axis``) of a matrix of any floats.

    It is widened a few rows at a time: beside the integers, not much is in memory.
    """
    scale = _channel_scales(matrix, axis)
    return _rounded(matrix, axis, scale, _Errors()), scale


def _channel_scales(matrix: np.ndarray, axis: int) -> np.ndarray:
    largest = [np.abs(rows).max(axis=1 - axis) for _, rows in _widened(matrix)]
    along = np.concatenate(largest) if axis == 0 else np.max(largest, axis=0)
    return _round_up_to_bfloat16(np.where(along > 0, along / _LEVELS, 1.0).astype(np.float32))


def _rounded(matrix: np.ndarray, axis: int, scale: np.ndarray, errors: _Errors) -> np.ndarray:
    """The integers; ``errors`` counts how far off they are."""
    integers = np.empty(matrix.shape, np.int8)
    for place, rows in _widened(matrix):
        divisors = _divisors(scale, axis, place)
        levels = np.rint(rows / divisors)
        integers[place] = levels
        errors.whole += float(np.vdot(rows, rows))
        levels *= divisors
        levels -= rows
        errors.off += float(np.vdot(levels, levels))
    return integers


def _widened(matrix: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Where a few rows are, and these in float32."""
    count = max(1, _WIDENED // matrix.shape[1])
    for start in range(0, len(matrix), count):
        place = slice(start, start + count)
        yield place, matrix[place].astype(np.float32)


def _divisors(scale: np.ndarray, axis: int, place: slice) -> np.ndarray:
    """The scales of the rows of ``place``."""
    return scale[place, None] if axis == 0 else scale[None, :]


def _round_up_to_bfloat16(numbers: np.ndarray) -> np.ndarray:
    bits = numbers.view(np.uint32)
    return ((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)


@dataclass
class _Errors:
    """Sums of squares over all weights that were rounded."""

    off: float = 0.0
    whole: float = 0.0

    @property
    def relative(self) -> float:
        return float(np.sqrt(self.off / self.whole)) if self.whole else 0.0


def _stored_matrix(value: ir.Value | None) -> tuple[ir.Value, list[ir.Node]] | None:
    """The stored weights behind ``value``, and what lies between, the nearest to them first."""
    between: list[ir.Node] = []
    while value is not None and not value.is_initializer():
        node = value.producer()
        if node is None or node.op_type not in ("Cast", "Transpose"):
            return None
        between.insert(0, node)
        value = node.inputs[0]
    if value is None or value.const_value is None or len(value.shape or ()) != 2 or value.const_value.size < LEAST_SIZE:
        return None
    return value, between


def _output_axis(readers: list[ir.Node]) -> int:
    """A product's channels are its right side's columns: rows of what is turned once before."""
    return 1 - sum(node.op_type == "Transpose" for node in readers) % 2


def _dequantised(graph: ir.Graph, stored: ir.Value, axis: int, errors: _Errors) -> ir.Value:
    """``stored`` as float32, made of integers."""
    tensor, shape = stored.const_value, stored.shape
    assert tensor is not None and shape is not None
    scale = _channel_scales(tensor.numpy(), axis)

    def make() -> ir.Tensor:
        # When it is written: only one of them is ever in memory.
        return ir.Tensor(_rounded(tensor.numpy(), axis, scale, errors), name=name)

    name = f"{stored.name}_int8"
    lazy = ir.LazyTensor(make, ir.DataType.INT8, shape, name=name)
    weights = ir.Value(name=name, shape=stored.shape, type=ir.TensorType(ir.DataType.INT8), const_value=lazy)
    scales = ir.Value(
        name=f"{stored.name}_scale",
        shape=ir.Shape(scale.shape),
        type=ir.TensorType(ir.DataType.FLOAT),
        const_value=ir.Tensor(scale, name=f"{stored.name}_scale"),
    )
    graph.register_initializer(weights)
    graph.register_initializer(scales)
    wide = ir.Value(name=f"{stored.name}_wide", shape=stored.shape, type=ir.TensorType(ir.DataType.FLOAT))
    graph.insert_before(graph[0], ir.node("DequantizeLinear", [weights, scales], {"axis": axis}, outputs=[wide]))
    return wide


def _read_instead(graph: ir.Graph, stored: ir.Value, wide: ir.Value, readers: list[ir.Node]) -> None:
    """What read ``stored`` reads ``wide``; a cast that would widen it once more goes."""
    for user, index in list(stored.uses()):
        user.replace_input_with(index, wide)
    for node in readers:
        if node.op_type == "Cast" and node.graph is not None:
            source = node.inputs[0]
            assert source is not None
            node.outputs[0].replace_all_uses_with(source)
            graph.remove(node, safe=True)
