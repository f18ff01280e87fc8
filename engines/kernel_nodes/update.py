"""The end of a jump -> ``FlowMapUpdate``.

1. ``z_t - interval * velocity``, the velocity unpatchified from the head's tokens, becomes one node that reads the
   tokens in the type they are in.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from anyflow_rt.engines.kernel_nodes.matching import (
    Results,
    graph_input,
    insert_kernel,
    maker,
    mismatch,
    take_over,
    unconverted,
)

_PLACE = "at the end of the jump"
_TO_PIXELS = [0, 1, 6, 2, 4, 3, 5]


def fuse_update(model: ir.Model) -> bool:
    """Replace it in place. Raises EngineError where the graph does not end in it."""
    graph = model.graph
    answer = graph.outputs[0]
    difference = _made(answer, "Sub")
    state = graph_input(_operand(difference, 0), "latents", _PLACE)
    product = _made(_operand(difference, 1), "Mul")
    steps = [value for value in product.inputs if value is not None and maker(value, "Unsqueeze") is not None]
    if len(steps) != 1:
        raise mismatch(_PLACE, "interval times velocity", product)
    interval = graph_input(_without(steps[0], "Unsqueeze"), "interval", _PLACE)
    velocity = _operand(product, 1 if product.inputs[0] is steps[0] else 0)
    pixels = _made(_operand(_made(velocity, "Reshape"), 0), "Transpose")
    if list(pixels.attributes["perm"].as_ints()) != _TO_PIXELS:
        raise mismatch(_PLACE, "layout in pixels", pixels)
    tokens = unconverted(_operand(_made(_operand(pixels, 0), "Reshape"), 0))
    features, channels = _size(tokens, -1), _size(state, 2)
    patch = math.isqrt(features // channels)
    flat = _one_axis(graph, difference, tokens, features)
    (made,) = insert_kernel(graph, difference, "FlowMapUpdate", (flat, state, interval), {"patch": patch})
    name = answer.name
    take_over(Results(ir.DataType.FLOAT, (), answer), made)
    answer.name, made.name = f"{name}_replaced", name
    return True


def _one_axis(graph: ir.Graph, before: ir.Node, tokens: ir.Value, features: int) -> ir.Value:
    """Tokens (B, F, N, features) as (B, L, features)."""
    shape = ir.Value(name="update_tokens_shape", shape=ir.Shape([3]), type=ir.TensorType(ir.DataType.INT64))
    shape.const_value = ir.tensor(np.array([0, -1, features], np.int64), name=shape.name)
    graph.register_initializer(shape)
    flat = ir.Value(name="update_tokens", type=tokens.type)
    graph.insert_before(before, ir.node("Reshape", [tokens, shape], outputs=[flat], name="update_tokens"))
    return flat


def _without(value: ir.Value, operator: str) -> ir.Value:
    while (node := maker(value, operator)) is not None:
        value = _operand(node, 0)
    return value


def _made(value: ir.Value, operator: str) -> ir.Node:
    node = maker(value, operator)
    if node is None:
        raise mismatch(_PLACE, operator, value)
    return node


def _operand(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def _size(value: ir.Value, axis: int) -> int:
    size = None if value.shape is None else value.shape[axis]
    if not isinstance(size, int):
        raise mismatch(_PLACE, f"fixed size of axis {axis}", value)
    return size
