"""Casts from and to uint8 at the ends of a graph: TensorRT has uint8 for inputs and outputs alone."""

from __future__ import annotations

import onnx_ir as ir


def cast_pixels_first(model: ir.Model) -> bool:
    """Convert each uint8 input to float32 before anything lays its values out; whether there was one."""
    graph = model.graph
    pixels = [value for value in graph.inputs if value.dtype == ir.DataType.UINT8]
    for value in pixels:
        readers = list(value.uses())
        number = ir.Value(name=f"{value.name}_number", shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT))
        cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT.value}, outputs=[number])
        graph.insert_before(graph[0], cast)
        for node, index in readers:
            node.replace_input_with(index, number)
        _widen(graph, number)
    return bool(pixels)


def _widen(graph: ir.Graph, value: ir.Value) -> None:
    """What only lays out ``value``, which was uint8, is float32 as well, and needs no cast."""
    for node, _ in list(value.uses()):
        output = node.outputs[0]
        if node.op_type == "Cast":
            output.replace_all_uses_with(value)
            graph.remove(node, safe=True)
        elif output.dtype == ir.DataType.UINT8:
            output.type = ir.TensorType(ir.DataType.FLOAT)
            _widen(graph, output)


def cast_pixels_last(model: ir.Model) -> bool:
    """Move each cast to uint8 behind the operations that only lay its values out; whether there was one."""
    graph = model.graph
    found = False
    for node in list(graph):
        if node.op_type != "Cast" or node.attributes["to"].as_int() != ir.DataType.UINT8:
            continue
        output = node.outputs[0]
        if output.is_graph_output():
            continue
        number = node.inputs[0]
        assert number is not None
        moved = _last_of_chain(output)
        output.replace_all_uses_with(number)
        graph.remove(node, safe=True)
        _cast_output(graph, moved)
        found = True
    return found


def _last_of_chain(value: ir.Value) -> ir.Value:
    """The graph output that ``value`` becomes; each step reads the one before and changes no number."""
    while not value.is_graph_output():
        (reader,) = value.consumers()
        value = reader.outputs[0]
    return value


def _cast_output(graph: ir.Graph, value: ir.Value) -> None:
    producer, name = value.producer(), value.name
    assert producer is not None
    place = next(index for index, output in enumerate(graph.outputs) if output is value)
    value.name, value.type = f"{name}_number", ir.TensorType(ir.DataType.FLOAT)
    pixels = ir.Value(name=name, shape=value.shape, type=ir.TensorType(ir.DataType.UINT8))
    graph.insert_after(producer, ir.node("Cast", [value], {"to": ir.DataType.UINT8.value}, outputs=[pixels]))
    graph.outputs[place] = pixels
