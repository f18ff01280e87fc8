"""Strongly typed half-precision graphs on a CPU: float32 arithmetic, every half value rounded where it is made.

That is what tensor cores do: products of half numbers, sums in float32, results rounded. ONNX Runtime has bf16 casts on
a CPU but no bf16 products, so the rounding is spelled out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime

from anyflow_rt.engines.typed.precision import HALVES, set_type

_HALVES = tuple(HALVES.values())
_UNROUNDED = ("Reshape", "Transpose", "Split", "Slice", "Concat", "Squeeze", "Unsqueeze", "Expand", "Pad", "Identity")


def emulate(source: Path, destination: Path) -> Path:
    """Write the float32 graph that computes what the typed graph ``source`` does."""
    model = ir.load(source)
    graph = model.graph
    for value in list(graph.initializers.values()):
        if value.dtype in _HALVES:
            value.const_value = ir.Tensor(value.const_value.numpy().astype(np.float32), name=value.name)
            set_type(value, ir.DataType.FLOAT)
    for value in graph.inputs:
        if value.dtype in _HALVES:
            set_type(value, ir.DataType.FLOAT)
    for node in list(graph):
        node.attributes.pop("TRT_decomposable", None)
        if "normalised_type" in node.attributes:
            node.attributes["normalised_type"] = ir.AttrInt64("normalised_type", ir.DataType.FLOAT.value)
        for index, output in enumerate(node.outputs):
            half = output.dtype
            if half not in _HALVES:
                continue
            set_type(output, ir.DataType.FLOAT)
            if node.op_type == "Cast":
                set_type(output, half)
                _after(graph, node, index, [("Cast", ir.DataType.FLOAT)])
            elif node.op_type not in _UNROUNDED:
                _after(graph, node, index, [("Cast", half), ("Cast", ir.DataType.FLOAT)])
    for node in list(graph):
        if node.op_type == "Attention" and len(node.inputs) > 3:
            _expand_bias(graph, node)
    ir.save(model, destination, external_data=f"{destination.name}.data")
    return destination


def session(path: Path) -> onnxruntime.InferenceSession:
    """Without optimisations, which could take a rounding for two casts that undo each other."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _after(graph: ir.Graph, node: ir.Node, index: int, casts: list[tuple[str, ir.DataType]]) -> None:
    """Everything that reads an output reads it through ``casts``; a graph's output keeps its name."""
    output = node.outputs[index]
    users, is_output = list(output.uses()), output.is_graph_output()
    last, after = output, node
    for operator, dtype in casts:
        result = ir.Value(name=f"{last.name}_rounded", shape=output.shape, type=ir.TensorType(dtype))
        cast = ir.node(operator, [last], {"to": dtype.value}, outputs=[result])
        graph.insert_after(after, cast)
        last, after = result, cast
    for user, position in users:
        user.replace_input_with(position, last)
    if is_output:
        place = next(place for place, value in enumerate(graph.outputs) if value is output)
        last.name, output.name = output.name, f"{output.name}_exact"
        graph.outputs[place] = last


def _expand_bias(graph: ir.Graph, attention: ir.Node) -> None:
    """ONNX Runtime's CPU attention wants a bias for every query: add zeros of the queries' shape to it."""
    query, _, _, bias = attention.inputs[:4]
    rows, one = ir.Value(name=f"{attention.name}_rows"), ir.Value(name=f"{attention.name}_one")
    zero, wide = ir.Value(name=f"{attention.name}_zero"), ir.Value(name=f"{attention.name}_bias")
    one.const_value = ir.tensor(np.array([3], np.int64))
    one.shape, one.type = ir.Shape([1]), ir.TensorType(ir.DataType.INT64)
    graph.register_initializer(one)
    attention.prepend(
        [
            ir.node("ReduceSum", [query, one], {"keepdims": 1}, outputs=[rows]),
            ir.node("Sub", [rows, rows], outputs=[zero]),
            ir.node("Add", [bias, zero], outputs=[wide]),
        ]
    )
    attention.replace_input_with(3, wide)
