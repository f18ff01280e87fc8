"""Residual sums and norms -> ``AdaptiveNorm``, ``JoinAffine`` or ``Join``, ``AddNorm``, ``JoinNorm``.

The residual is followed from the first norm to the head; what is found on the way, in this order, is replaced:

1. The norm before the first block, shifted and scaled by rows of modulation + table.
2. In each block the sum after self-attention, its branch times a row, with the affine norm after it (a checkpoint
   without ``cross_attn_norm`` has none); the sum after cross-attention with its modulated norm; the sum after the FFN,
   its branch times a row, with the norm that comes first in the next block, or in the head.
3. A branch is read in the type its product made it in, and a norm's result is written in the type that the next
   product takes: both conversions are the kernel's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from anyflow_rt.engines.kernel_nodes.matching import (
    Results,
    attribute,
    constant,
    insert_kernel,
    maker,
    mismatch,
    only_reader,
    operand_beside,
    readers,
    take_over,
    unconverted,
    used_as,
)

PLACES = ("after self-attention", "after cross-attention", "after the FFN")


@dataclass(frozen=True)
class Row:
    """Row ``index`` of modulation + table."""

    modulation: ir.Value
    table: ir.Value
    index: int

    @property
    def vectors(self) -> tuple[ir.Value, ir.Value]:
        return self.modulation, self.table


@dataclass(frozen=True)
class Norm:
    """A norm of a residual: ``last`` is the node that makes its result."""

    eps: float
    last: ir.Node
    shift: Row | None = None
    scale: Row | None = None
    gain: ir.Value | None = None
    bias: ir.Value | None = None


def fuse_joins(model: ir.Model, layers: int) -> bool:
    """Replace them all in place. Raises EngineError, naming the block, where a pattern ends."""
    _Residual(model.graph).follow(layers)
    return True


class _Residual:
    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._tables: dict[ir.Value, ir.Value] = {}

    def follow(self, layers: int) -> None:
        first = next((node for node in self._graph if node.op_type == "LayerNormalization"), None)
        if first is None or first.inputs[0] is None:
            raise mismatch("before block 0", "LayerNormalization")
        residual = first.inputs[0]
        norm = self._norm(first, "before block 0")
        if norm.shift is None:
            raise mismatch("before block 0", "modulation", first)
        results = used_as(norm.last.outputs[0])
        (made,) = insert_kernel(
            self._graph, norm.last, "AdaptiveNorm", (residual, *self._vectors(norm.shift)), _numbers(norm, results)
        )
        take_over(results, made)
        for block in range(layers):
            for place in PLACES:
                residual = self._join(residual, f"{place} of block {block}", place)

    def _join(self, residual: ir.Value, where: str, place: str) -> ir.Value:
        """Replace the next sum, and the norm after it; the new residual."""
        sums = readers(residual, "Add")
        if len(sums) != 1:
            raise mismatch(where, "sum", f"{len(sums)} of them")
        total = sums[0].outputs[0]
        branch = operand_beside(sums[0], residual)
        gate = None
        if place != "after cross-attention":
            branch, gate = self._gated(branch, where)
        branch = unconverted(branch)
        norms = readers(total, "LayerNormalization")
        if len(norms) > 1:
            raise mismatch(where, "single norm", norms[1])
        if not norms:
            if gate is None or place != "after self-attention":
                raise mismatch(where, "LayerNormalization")
            (joined,) = insert_kernel(
                self._graph, sums[0], "Join", (residual, branch, *self._vectors(gate)), {"gate_row": gate.index}
            )
            take_over(Results(_dtype(residual), (), total), joined)
            return joined
        norm = self._norm(norms[0], where)
        results = used_as(norm.last.outputs[0])
        inputs = [residual, branch]
        numbers = _numbers(norm, results)
        if gate is not None:
            inputs += self._vectors(gate)
            numbers["gate_row"] = gate.index
        if norm.shift is not None:
            kind = "AddNorm" if gate is None else "JoinNorm"
            inputs += self._vectors(norm.shift)
        elif gate is not None and norm.gain is not None and norm.bias is not None:
            kind = "JoinAffine"
            inputs += (norm.gain, norm.bias)
        else:
            raise mismatch(where, "modulated norm", norms[0])
        joined, normalised = insert_kernel(self._graph, norm.last, kind, inputs, numbers)
        take_over(results, normalised)
        take_over(Results(_dtype(residual), (), total), joined)
        return joined

    def _gated(self, branch: ir.Value, where: str) -> tuple[ir.Value, Row]:
        """A branch and the row that it is multiplied by."""
        product = maker(branch, "Mul")
        for index in (0, 1) if product is not None else ():
            assert product is not None
            operand, other = product.inputs[index], product.inputs[1 - index]
            if operand is not None and other is not None and (row := _row(operand)) is not None:
                return other, row
        raise mismatch(where, "branch times a row of modulation", branch)

    def _norm(self, node: ir.Node, where: str) -> Norm:
        eps, result = float(attribute(node, "epsilon", 1e-5)), node.outputs[0]
        gain, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
        if gain is None or constant(gain) is None:
            raise mismatch(where, "LayerNormalization with known gains", node)
        if bias is not None:
            return Norm(eps, node, gain=gain, bias=bias)
        gains = constant(gain)
        if gains is None or not np.all(gains.numpy() == 1):
            raise mismatch(where, "LayerNormalization without gains", node)
        product = only_reader(result, "Mul", where)
        scale = self._one_plus(operand_beside(product, result), where)
        total = only_reader(product.outputs[0], "Add", where)
        shift = _row(operand_beside(total, product.outputs[0]))
        if shift is None or shift.vectors != scale.vectors:
            raise mismatch(where, "shift by the norm's modulation", total)
        return Norm(eps, total, shift, scale)

    def _one_plus(self, value: ir.Value, where: str) -> Row:
        total = maker(value, "Add")
        for index in (0, 1) if total is not None else ():
            assert total is not None
            operand, other = total.inputs[index], total.inputs[1 - index]
            if operand is None or other is None or (number := constant(other)) is None:
                continue
            if number.size == 1 and number.numpy().item() == 1 and (row := _row(operand)) is not None:
                return row
        raise mismatch(where, "scale by 1 + a row of modulation", value)

    def _vectors(self, row: Row) -> tuple[ir.Value, ir.Value]:
        """Modulation, and the table as (rows, D)."""
        if row.table not in self._tables:
            stored = constant(row.table)
            assert stored is not None
            name = f"{row.table.name}_rows"
            numbers = stored.numpy()
            numbers = numbers.reshape(numbers.shape[-2:])
            table = ir.Value(name=name, shape=ir.Shape(numbers.shape), const_value=ir.tensor(numbers, name=name))
            table.type = ir.TensorType(ir.DataType.FLOAT)
            self._graph.register_initializer(table)
            self._tables[row.table] = table
        return row.modulation, self._tables[row.table]


def _row(value: ir.Value) -> Row | None:
    """``value`` as a row of modulation + table, if it is one."""
    split = maker(value, "Split")
    if split is None or attribute(split, "axis", 0) != 2 or split.inputs[0] is None:
        return None
    total = maker(split.inputs[0], "Add")
    if total is None:
        return None
    index = list(split.outputs).index(unconverted(value))
    for place in (0, 1):
        table, modulation = total.inputs[place], total.inputs[1 - place]
        if table is not None and modulation is not None and constant(table) is not None:
            return Row(modulation, table, index)
    return None


def _numbers(norm: Norm, results: Results) -> dict[str, float | int]:
    rows = {} if norm.shift is None or norm.scale is None else {"shift": norm.shift.index, "scale": norm.scale.index}
    return {**rows, "eps": norm.eps, "normalised_type": results.dtype.value}


def _dtype(value: ir.Value) -> ir.DataType:
    assert value.dtype is not None
    return value.dtype
