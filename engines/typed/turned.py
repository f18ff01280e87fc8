"""Matrices that a graph turns before their products are turned when they are written.

TensorRT would turn all of them before it builds, and keep both: of a text encoder's bf16 weights twice their size.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def turn_weights(graph: ir.Graph) -> int:
    """Change ``graph`` in place: each ``Transpose`` of a stored matrix becomes a stored matrix, made when it is
    written; how many did."""
    found = [node for node in graph if node.op_type == "Transpose" and _is_stored_matrix(node.inputs[0])]
    for node in found:
        stored, output = node.inputs[0], node.outputs[0]
        assert stored is not None
        turned = _turned(stored, f"{output.name}_stored")
        graph.register_initializer(turned)
        output.replace_all_uses_with(turned)
        graph.remove(node, safe=True)
    return len(found)


def _is_stored_matrix(value: ir.Value | None) -> bool:
    if value is None or not value.is_initializer() or value.const_value is None:
        return False
    return len(value.shape or ()) == 2


def _turned(stored: ir.Value, name: str) -> ir.Value:
    tensor, shape = stored.const_value, stored.shape
    assert tensor is not None and shape is not None
    turned = ir.Shape(list(shape)[::-1])

    def make() -> ir.Tensor:
        return ir.Tensor(np.ascontiguousarray(tensor.numpy().T), name=name)

    lazy = ir.LazyTensor(make, tensor.dtype, turned, name=name)
    return ir.Value(name=name, shape=turned, type=ir.TensorType(tensor.dtype), const_value=lazy)
