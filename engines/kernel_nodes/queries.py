"""RMSNorm of queries and keys, their rotation and layout -> ``QkNormRope`` and ``QueryNorm``.

1. Query and key of a packed projection, each normed, split into heads and turned by the angles of its token, become one
   node that reads the projection itself. The value stays as it is.
2. The query of cross-attention, normed and split into heads, becomes one node.
3. Both read and write the type of the projection: the conversions between are the kernel's.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from anyflow_rt.engines.kernel_nodes.matching import (
    Results,
    attribute,
    graph_input,
    insert_kernel,
    maker,
    mismatch,
    only_reader,
    take_over,
    unconverted,
    used_as,
)

QUERY, KEY = 0, 1
_TO_HEADS = [0, 2, 1, 3]


@dataclass(frozen=True)
class _Part:
    """A query or a key, normed and split into heads; ``last``: the node that makes it."""

    gain: ir.Value
    eps: float
    last: ir.Node
    rope: tuple[ir.Value, ...] = ()


def fuse_queries(model: ir.Model, heads: int) -> bool:
    """Replace them all in place; whether there were any. Raises EngineError, naming the block, where one ends."""
    graph = model.graph
    norms = [node for node in graph if node.op_type == "RMSNormalization"]
    packed = [node for node in graph if node.op_type == "Split" and _has_norm(node)]
    for block, split in enumerate(packed):
        _fuse_packed(graph, split, heads, f"in self-attention of block {block}")
    alone = [node for node in norms if maker(_first(node), "Split") not in packed]
    for block, norm in enumerate(alone):
        where = f"in cross-attention of block {block}"
        source, part = unconverted(_first(norm)), _in_heads(norm, where)
        results = _as_typed(part, source, where)
        numbers = {"heads": heads, "eps": part.eps}
        (query,) = insert_kernel(graph, part.last, "QueryNorm", (source, part.gain), numbers)
        take_over(results, query)
    return bool(norms)


def _has_norm(split: ir.Node) -> bool:
    read = (node for output in split.outputs for user in output.consumers() for node in _through_cast(user))
    return any(node.op_type == "RMSNormalization" for node in read)


def _through_cast(node: ir.Node) -> list[ir.Node]:
    return list(node.outputs[0].consumers()) if node.op_type == "Cast" else [node]


def _fuse_packed(graph: ir.Graph, split: ir.Node, heads: int, where: str) -> None:
    if attribute(split, "axis", 0) != 2 or len(split.outputs) != 3:
        raise mismatch(where, "split into query, key and value", split)
    packed = _first(split)
    query, key = (_turned(_norm_of(split.outputs[index], where), where) for index in (QUERY, KEY))
    if query.eps != key.eps or query.rope != key.rope:
        raise mismatch(where, "key that is normed and turned as the query is", key.last)
    results = [_as_typed(part, packed, where) for part in (query, key)]
    # Of the two, the one that comes later: everything that either reads is there by then.
    before = max(query.last, key.last, key=list(graph).index)
    made = insert_kernel(
        graph, before, "QkNormRope", (packed, query.gain, key.gain, *query.rope), {"heads": heads, "eps": query.eps}
    )
    for result, value in zip(results, made, strict=True):
        take_over(result, value)


def _norm_of(part: ir.Value, where: str) -> ir.Node:
    read = [node for user in part.consumers() for node in _through_cast(user) if node.op_type == "RMSNormalization"]
    if len(read) != 1:
        raise mismatch(where, "RMSNormalization", part)
    return read[0]


def _in_heads(norm: ir.Node, where: str) -> _Part:
    """RMSNorm over all heads, then (B, L, heads * d) -> (B, heads, L, d)."""
    gain = norm.inputs[1]
    if gain is None or gain.dtype != ir.DataType.FLOAT:
        raise mismatch(where, "RMSNormalization with float32 gains", norm)
    split = only_reader(norm.outputs[0], "Reshape", where)
    turned = only_reader(split.outputs[0], "Transpose", where)
    if list(turned.attributes["perm"].as_ints()) != _TO_HEADS:
        raise mismatch(where, "layout in heads", turned)
    return _Part(gain, float(attribute(norm, "epsilon", 1e-5)), turned)


def _turned(norm: ir.Node, where: str) -> _Part:
    """The same, then (a, b) -> (a cos - b sin, b cos + a sin) of each head's halves."""
    part = _in_heads(norm, where)
    halves = only_reader(part.last.outputs[0], "Split", where)
    first, second = halves.outputs
    joined = next((node for node in _descendants(first, 3) if node.op_type == "Concat"), None)
    real, imaginary = joined.inputs if joined is not None and len(joined.inputs) == 2 else (None, None)
    if joined is None or real is None or imaginary is None:
        raise mismatch(where, "rotation", halves)
    minus, plus = maker(real, "Sub"), maker(imaginary, "Add")
    if minus is None or plus is None:
        raise mismatch(where, "rotation", joined)
    factors = [_factor(value, half, where) for value, half in zip(_both(minus), (first, second), strict=True)]
    mirrored = [_factor(value, half, where) for value, half in zip(_both(plus), (second, first), strict=True)]
    cos, sin = (graph_input(value, name, where) for value, name in zip(factors, ("rope_cos", "rope_sin"), strict=True))
    if [unconverted(value) for value in mirrored] != [cos, sin]:
        raise mismatch(where, "rotation by one angle", plus)
    return _Part(part.gain, part.eps, joined, (cos, sin))


def _factor(product: ir.Value, half: ir.Value, where: str) -> ir.Value:
    """What ``half`` is multiplied by."""
    node = maker(product, "Mul")
    if node is None or half not in node.inputs:
        raise mismatch(where, "rotation", product)
    first, second = _both(node)
    return second if first is half else first


def _as_typed(part: _Part, packed: ir.Value, where: str) -> Results:
    """The part as its users want it, which has to be as the projection is."""
    results = used_as(part.last.outputs[0])
    if results.dtype != packed.dtype:
        raise mismatch(where, f"query or key in {packed.dtype}", part.last.outputs[0])
    return results


def _descendants(value: ir.Value, depth: int) -> list[ir.Node]:
    nodes = list(value.consumers())
    if depth == 1:
        return nodes
    return nodes + [node for user in nodes for node in _descendants(user.outputs[0], depth - 1)]


def _both(node: ir.Node) -> tuple[ir.Value, ir.Value]:
    first, second = node.inputs
    assert first is not None and second is not None
    return first, second


def _first(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value
