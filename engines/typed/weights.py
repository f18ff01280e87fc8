"""Weights that nothing reads any more: they would be written and mapped all the same."""

from __future__ import annotations

import onnx_ir as ir


def drop_unused_weights(graph: ir.Graph) -> None:
    """Change ``graph`` in place."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            graph.initializers.pop(name)
