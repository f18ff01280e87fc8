"""A typed denoiser -> one with kernels: every pass, and the count of what they made."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from anyflow_rt.engines.kernel_nodes.attention import fuse_attention
from anyflow_rt.engines.kernel_nodes.joins import fuse_joins
from anyflow_rt.engines.kernel_nodes.kinds import DOMAIN, KINDS, VERSION
from anyflow_rt.engines.kernel_nodes.matching import mismatch
from anyflow_rt.engines.kernel_nodes.queries import fuse_queries
from anyflow_rt.engines.kernel_nodes.sets import ATTENTION, NONE
from anyflow_rt.engines.kernel_nodes.update import fuse_update


def use_kernels(model: ir.Model, kernels: str) -> dict[str, int]:
    """Change a denoiser that has its types in place; how many nodes of each kind it has now.

    ``kernels``: one of ``KERNEL_SETS``. The functions of the nodes go into the model. Raises EngineError, naming the
    block, where a part of the graph is not as this package exports it: no block goes without its kernels.
    """
    if kernels == NONE:
        return {}
    layers, heads = _blocks_and_heads(model.graph)
    fuse_joins(model, layers)
    fuse_queries(model, heads)
    fuse_update(model)
    if kernels == ATTENTION:
        fuse_attention(model)
    model.graph.sort()
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(model)
    counts = Counter(node.op_type for node in model.graph if node.domain == DOMAIN)
    _check(model.graph, counts, layers, kernels)
    for name in counts:
        function = KINDS[name].function
        model.functions[function.identifier()] = function
    model.opset_imports[DOMAIN] = VERSION
    return dict(sorted(counts.items()))


def expected_nodes(layers: int, cross_attn_norm: bool, kernels: str, biased: bool = True) -> dict[str, int]:
    """Nodes of each kind in a denoiser. ``biased``: whether cross-attention has a bias."""
    if kernels == NONE:
        return {}
    nodes = {
        "AdaptiveNorm": 1,
        "AddNorm": layers,
        "FlowMapUpdate": 1,
        "JoinAffine" if cross_attn_norm else "Join": layers,
        "JoinNorm": layers,
        "QkNormRope": layers,
        "QueryNorm": layers,
    }
    if kernels == ATTENTION:
        nodes |= {"PlainAttention": layers, "BiasedAttention": layers} if biased else {"PlainAttention": 2 * layers}
    return dict(sorted(nodes.items()))


def _blocks_and_heads(graph: ir.Graph) -> tuple[int, int]:
    """From the shape of the keys, (layers, B, heads, P, d)."""
    keys = next((value for value in graph.inputs if value.name == "cross_key"), None)
    shape = None if keys is None else keys.shape
    if shape is None or not isinstance(shape[0], int) or not isinstance(shape[2], int):
        raise mismatch("at its inputs", "cross_key of a known number of layers and heads", shape)
    return shape[0], shape[2]


def _check(graph: ir.Graph, counts: Counter[str], layers: int, kernels: str) -> None:
    """Raise EngineError unless every block has its nodes and nothing that they stand for is left."""
    replaced = ["LayerNormalization", "RMSNormalization", *(["Attention"] if kernels == ATTENTION else [])]
    for node in graph:
        if node.op_type in replaced and node.domain == "":
            raise mismatch("in place of it", f"kernel for {node.op_type}", node)
    found = dict(sorted(counts.items()))
    wanted = expected_nodes(layers, "JoinAffine" in counts, kernels, "BiasedAttention" in counts)
    if found != wanted:
        raise mismatch(f"in each of {layers} blocks", "kernel", f"{found} where {wanted} should be")
