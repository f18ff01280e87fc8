"""Attention as TensorRT's fused kernels take it.

1. A node that no dedicated kernel serves (a head size under 12 or over 256, a single head, float32) is marked
   ``TRT_decomposable``: without the mark its build fails, with it the engine holds products and a softmax. All others
   stay unmarked, so that an engine that was built proves that each of them is fused.
2. A bias that was repeated over all queries, as ONNX Runtime wants it, goes in as one row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from anyflow_rt.engines.typed.heads import Heads

SMALLEST_FUSED_HEAD, LARGEST_FUSED_HEAD = 12, 256
"""Built with TensorRT for RTX 1.7 for SM75 to SM121: every head size from 12 to 256 in fp16 and bf16, with and without
a bias, is taken; 8, 320 and more, a single head of any size, and float32, are refused."""

DECOMPOSABLE = "TRT_decomposable"


@dataclass(frozen=True)
class AttentionCount:
    """How many attentions of a graph are one fused kernel, and how many are taken apart."""

    fused: int
    decomposed: int


def prepare_attention(model: ir.Model, heads: Mapping[str, Heads]) -> AttentionCount:
    """Apply both rules in place, to a graph that has its types. ``heads``: by the attentions' outputs."""
    fused = decomposed = 0
    for node in list(model.graph):
        if node.op_type != "Attention":
            continue
        query = node.inputs[0]
        assert query is not None
        half = query.dtype in (ir.DataType.BFLOAT16, ir.DataType.FLOAT16)
        if half and _is_served(heads[node.outputs[0].name or ""]):
            fused += 1
        else:
            node.attributes[DECOMPOSABLE] = ir.AttrInt64(DECOMPOSABLE, 1)
            decomposed += 1
        _narrow_bias(model.graph, node)
    return AttentionCount(fused, decomposed)


def _is_served(heads: Heads) -> bool:
    return heads.count is not None and heads.count > 1 and SMALLEST_FUSED_HEAD <= heads.size <= LARGEST_FUSED_HEAD


def _narrow_bias(graph: ir.Graph, attention: ir.Node) -> None:
    """Read the bias as it was before it was repeated over the queries."""
    value = attention.inputs[3] if len(attention.inputs) > 3 else None
    expand = _repeated(value)
    if value is None or expand is None:
        return
    source = expand.inputs[0]
    assert source is not None
    for output in expand.outputs:
        output.replace_all_uses_with(source)
    graph.remove(expand, safe=True)


def _repeated(value: ir.Value | None) -> ir.Node | None:
    """The ``Expand`` behind a bias and its conversions."""
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "Expand":
            return node
        if node.op_type not in ("Cast", "Max"):
            return None
        value = node.inputs[0]
    return None
