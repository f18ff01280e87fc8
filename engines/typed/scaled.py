"""Products whose results may pass fp16's 65504, made with a smaller factor.

UMT5's feed-forwards end in such products (transformers keeps them in float32). Here their input is scaled down by a
power of two before it becomes fp16, and the result scaled up in float32: no bit is lost to it unless the input is tiny.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

SCALE = 64.0
"""Results up to 4 million: a hundred times what UMT5-XXL's feed-forwards are known to reach."""

_MULTIPLIED = ("Mul", "Gelu", "Relu")


def scale_feed_forwards(model: ir.Model) -> int:
    """Change a typed fp16 text encoder in place; how many products were scaled."""
    graph = model.graph
    found = [node for node in graph if node.op_type == "MatMul" and _ends_feed_forward(node)]
    if not found:
        return 0
    down, up = (_constant(graph, f"feed_forward_{name}", value) for name, value in (("down", 1 / SCALE), ("up", SCALE)))
    for node in found:
        hidden, product = node.inputs[0], node.outputs[0]
        assert hidden is not None
        small = _value(f"{hidden.name}_scaled", ir.DataType.FLOAT16)
        wide, full = (_value(f"{product.name}_{name}", ir.DataType.FLOAT) for name in ("wide", "scaled"))
        users = list(product.uses())
        half_down = _constant(graph, "feed_forward_down_half", 1 / SCALE, ir.DataType.FLOAT16)
        factor = down if hidden.dtype == ir.DataType.FLOAT else half_down
        node.prepend(ir.node("Mul", [hidden, factor], outputs=[small]))
        node.replace_input_with(0, small)
        graph.insert_after(
            node,
            [
                ir.node("Cast", [product], {"to": ir.DataType.FLOAT.value}, outputs=[wide]),
                ir.node("Mul", [wide, up], outputs=[full]),
            ],
        )
        for user, index in users:
            _read_instead(graph, user, index, full)
    return len(found)


def _read_instead(graph: ir.Graph, user: ir.Node, index: int, full: ir.Value) -> None:
    """A cast of the product to float32 is what ``full`` is already."""
    if user.op_type == "Cast":
        user.outputs[0].replace_all_uses_with(full)
        graph.remove(user, safe=True)
    else:
        user.replace_input_with(index, full)


def _value(name: str, dtype: ir.DataType) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype))


def _constant(graph: ir.Graph, name: str, number: float, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    if name not in graph.initializers:
        value = ir.Value(name=name, const_value=ir.tensor(np.array(number, dtype.numpy())), shape=ir.Shape(()))
        value.type = ir.TensorType(dtype)
        graph.register_initializer(value)
    return graph.initializers[name]


def _ends_feed_forward(node: ir.Node) -> bool:
    made = node.inputs[0].producer() if node.inputs[0] is not None else None
    return made is not None and made.op_type in _MULTIPLIED
