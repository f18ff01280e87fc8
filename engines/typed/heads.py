"""Heads and head size of every attention in a graph, from its file alone: weights are not read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Heads:
    """Of one attention. ``count`` is None where the graph leaves it open."""

    count: int | None
    size: int


def read_heads(path: Path) -> dict[str, Heads]:
    """By the name of the attention's output. Raises ValueError where the graph does not fix a head size."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(str(path), load_external_data=False)).graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in (*graph.input, *graph.value_info)}
    found: dict[str, Heads] = {}
    for node in graph.node:
        if node.op_type != "Attention":
            continue
        # Shape inference may know one of query, key and value better than the others; they agree in both.
        known = [dims for name in node.input[:3] if len(dims := shapes.get(name, ())) == 4]
        sizes = [dims[3].dim_value for dims in known if dims[3].dim_value]
        counts = [dims[1].dim_value for dims in known if dims[1].dim_value]
        if not sizes:
            raise ValueError(f"the attention {node.output[0]} of {path} has no fixed head size")
        found[node.output[0]] = Heads(counts[0] if counts else None, sizes[0])
    return found
