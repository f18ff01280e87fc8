"""Attention with its output laid out for the next product -> ``PlainAttention`` and ``BiasedAttention``.

1. An attention whose output goes back from heads to tokens becomes one node that writes it so.
2. A bias of one row, repeated over heads and queries, is read as the (B, Lk) float32 values it is made of: it is not
   rounded to the half type, nor bounded.

TensorRT has fused kernels of its own for these; this pass is for whoever asks for it.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from anyflow_rt.engines.kernel_nodes.matching import (
    Results,
    attribute,
    insert_kernel,
    maker,
    mismatch,
    only_reader,
    take_over,
)

_TO_TOKENS = [0, 2, 1, 3]
_SPREADING = ("Max", "Unsqueeze", "Expand")


def fuse_attention(model: ir.Model) -> bool:
    """Replace all of them in place; whether there were any. Raises EngineError, naming the block, where one ends."""
    graph = model.graph
    found = [node for node in graph if node.op_type == "Attention" and node.domain == ""]
    for index, node in enumerate(found):
        _fuse(graph, node, f"in {('self', 'cross')[index % 2]}-attention of block {index // 2}")
    return bool(found)


def _fuse(graph: ir.Graph, node: ir.Node, where: str) -> None:
    query, key, value = node.inputs[:3]
    if query is None or key is None or value is None or len(node.outputs) != 1:
        raise mismatch(where, "Attention of query, key and value", node)
    size = query.shape[-1] if query.shape is not None else None
    usual = math.nan if not isinstance(size, int) else size**-0.5
    plain = {"is_causal": 0, "softcap": 0, "scale": usual}
    for name, wanted in plain.items():
        if not math.isclose(attribute(node, name, wanted), wanted, rel_tol=1e-6) and name in node.attributes:
            raise mismatch(where, f"Attention whose {name} is {wanted}", node)
    turned = only_reader(node.outputs[0], "Transpose", where)
    tokens = only_reader(turned.outputs[0], "Reshape", where)
    if list(turned.attributes["perm"].as_ints()) != _TO_TOKENS:
        raise mismatch(where, "layout in tokens", turned)
    bias = node.inputs[3] if len(node.inputs) > 3 else None
    kind, inputs = "PlainAttention", [query, key, value]
    if bias is not None:
        kind, inputs = "BiasedAttention", [*inputs, _row(bias, where)]
    (output,) = insert_kernel(graph, tokens, kind, inputs, {})
    made = tokens.outputs[0]
    assert made.dtype is not None
    take_over(Results(made.dtype, (), made), output)


def _row(bias: ir.Value, where: str) -> ir.Value:
    """The (B, Lk) values that a bias repeats."""
    value = bias
    while (node := maker(value, *_SPREADING)) is not None:
        first = node.inputs[0]
        assert first is not None
        value = first
    if not value.is_graph_input() or value.dtype != ir.DataType.FLOAT or value.shape is None or len(value.shape) != 2:
        raise mismatch(where, "bias of one row a video", value)
    return value
