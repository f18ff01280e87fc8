"""Element types for a float32 graph, node by node, as engines want it that take every type from the graph.

1. Products (``MatMul``, ``Conv``, ``ConvTranspose``, ``Attention``) take and give the half type.
2. Norms, trigonometry and what rounds to integers take and give float32: statistics, modulation and pixels.
3. Arithmetic is done in float32 if one of its operands is float32, else in the half type; constants adapt. So the
   gated branches of a transformer, whose gates come from float32 modulation, are summed in float32, and the state and
   its update, which meet the float32 interval, are float32 as well.
4. What only moves values keeps their type; a concatenation of both types is half.
5. Graph inputs and outputs keep float32, but for those named by ``ports``, which only pass between components.
6. ``exact``: products that stay float32 all the same; see ``exact``.
7. A bias of attention is bounded before it becomes fp16, where -1e9 would be an infinity.
8. Weights stored as integers become the half type at once; ``export.int8`` makes scales that it holds exactly.

A value is converted once, right after it is made. Weights are converted as they are written, one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import onnx_ir as ir

HALVES = {"bf16": ir.DataType.BFLOAT16, "fp16": ir.DataType.FLOAT16}
PRODUCTS = ("MatMul", "Conv", "ConvTranspose", "Attention")
_FLOAT32_ONLY = ("LayerNormalization", "RMSNormalization", "Softmax", "Cos", "Sin", "Round", "Clip")
_MOVEMENT = (
    *("Reshape", "Transpose", "Split", "Slice", "Concat", "Squeeze", "Unsqueeze", "Expand", "Pad", "Gather"),
    *("GatherND", "Identity"),
)
_FLOATS = (ir.DataType.FLOAT, ir.DataType.BFLOAT16, ir.DataType.FLOAT16)
_LEAST_BIAS = -3e4
"""exp of it is 0 in every type, and fp16 holds it with room for a sum of two."""


@dataclass(frozen=True)
class Typing:
    """``half``: ``bf16`` or ``fp16``. ``ports``: shell patterns of inputs and outputs that are of that type.

    ``exact``: products that stay float32.
    """

    half: str
    ports: tuple[str, ...] = ()
    exact: frozenset[ir.Node] = frozenset()


def type_graph(model: ir.Model, typing: Typing) -> None:
    """Change the float32 ``model`` in place into a strongly typed one."""
    _Typist(model.graph, typing).run()


def set_type(value: ir.Value, dtype: ir.DataType) -> None:
    """Declare the element type of ``value``."""
    value.type = ir.TensorType(dtype)


class _Typist:
    def __init__(self, graph: ir.Graph, typing: Typing) -> None:
        self._graph, self._typing, self._half = graph, typing, HALVES[typing.half]
        self._types: dict[ir.Value, ir.DataType | None] = {}
        self._cast: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def run(self) -> None:
        nodes = list(self._graph)
        rounded = _feeds_rounding(nodes)
        for value in (*self._graph.inputs, *self._graph.initializers.values()):
            self._types[value] = value.dtype
        for value in self._graph.inputs:
            if value.dtype == ir.DataType.FLOAT and self._is_port(value):
                self._declare(value, self._half)
        self._use_stored_weights(nodes)
        for node in nodes:
            if node.graph is not None:
                self._type_node(node, node in rounded)
        for index, value in enumerate(self._graph.outputs):
            self._finish_output(index, value)

    def _type_node(self, node: ir.Node, rounded: bool) -> None:
        floats = [value for value in node.inputs if value is not None and self._types.get(value) in _FLOATS]
        if node.op_type == "Cast":
            self._declare(node.outputs[0], ir.DataType(node.attributes["to"].as_int()))
            return
        if not floats or node.op_type in ("Shape", "Size", "Range", "ConstantOfShape"):
            self._declare_unchanged(node)
            return
        wanted = self._wanted(node, floats, rounded)
        if node.op_type == "Attention" and len(node.inputs) > 3 and wanted == ir.DataType.FLOAT16:
            self._bound_bias(node)
        for value in dict.fromkeys(floats if node.op_type != "Attention" else node.inputs):
            if value is not None and self._types[value] in _FLOATS:
                self._take_as(node, value, wanted)
        for output in node.outputs:
            self._declare(output, wanted)

    def _wanted(self, node: ir.Node, floats: list[ir.Value], rounded: bool) -> ir.DataType:
        """The type that ``node`` is computed in."""
        if node.op_type in _FLOAT32_ONLY or rounded:
            return ir.DataType.FLOAT
        if node.op_type == "DequantizeLinear":
            return self._half
        if node.op_type in PRODUCTS:
            return ir.DataType.FLOAT if node in self._typing.exact else self._half
        varying = [value for value in floats if value.const_value is None]
        types = {self._types[value] for value in varying or floats[:1]}
        mixed = self._half if node.op_type in _MOVEMENT else ir.DataType.FLOAT
        kind = types.pop() if len(types) == 1 else mixed
        assert kind is not None
        return kind

    def _declare_unchanged(self, node: ir.Node) -> None:
        for output in node.outputs:
            self._types[output] = output.dtype

    def _declare(self, value: ir.Value, dtype: ir.DataType) -> None:
        self._types[value] = dtype
        set_type(value, dtype)

    def _is_port(self, value: ir.Value) -> bool:
        return any(fnmatchcase(value.name or "", pattern) for pattern in self._typing.ports)

    def _take_as(self, node: ir.Node, value: ir.Value, dtype: ir.DataType) -> None:
        """Let ``node`` read ``value`` as ``dtype``."""
        if self._types[value] == dtype:
            return
        converted = self._converted(value, dtype)
        for index, given in enumerate(node.inputs):
            if given is value:
                node.replace_input_with(index, converted)

    def _converted(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        if (value, dtype) not in self._cast:
            name = f"{value.name}_as_{dtype.name.lower()}"
            if value.const_value is not None and value.is_initializer():
                converted = _converted_constant(value, dtype, name)
                self._graph.register_initializer(converted)
            else:
                converted = ir.Value(name=name, shape=value.shape)
                cast = ir.node("Cast", [value], {"to": dtype.value}, outputs=[converted])
                producer = value.producer()
                if producer is not None:
                    self._graph.insert_after(producer, cast)
                else:
                    self._graph.insert_before(self._graph[0], cast)
            self._declare(converted, dtype)
            self._cast[value, dtype] = converted
        return self._cast[value, dtype]

    def _use_stored_weights(self, nodes: Iterable[ir.Node]) -> None:
        """A weight stored in a half type and widened before its use is used as it is stored."""
        for node in nodes:
            if node.op_type != "Cast" or node.inputs[0] is None or node.outputs[0].is_graph_output():
                continue
            stored = node.inputs[0]
            if stored.is_initializer() and stored.const_value is not None and stored.dtype in _FLOATS:
                node.outputs[0].replace_all_uses_with(stored)
                self._graph.remove(node, safe=True)

    def _bound_bias(self, node: ir.Node) -> None:
        bias = node.inputs[3]
        if bias is None or self._types[bias] != ir.DataType.FLOAT:
            return
        key = (bias, ir.DataType.UNDEFINED)
        if key not in self._cast:
            least = ir.Value(name=f"{bias.name}_least", const_value=ir.tensor(np.float32(_LEAST_BIAS)))
            least.shape = ir.Shape(())
            self._declare(least, ir.DataType.FLOAT)
            self._graph.register_initializer(least)
            bounded = ir.Value(name=f"{bias.name}_bounded", shape=bias.shape)
            node.prepend(ir.node("Max", [bias, least], outputs=[bounded]))
            self._declare(bounded, ir.DataType.FLOAT)
            self._cast[key] = bounded
        node.replace_input_with(3, self._cast[key])

    def _finish_output(self, index: int, value: ir.Value) -> None:
        """Give the graph's output its type, under its name."""
        wanted = self._half if self._is_port(value) else ir.DataType.FLOAT
        if self._types.get(value) not in _FLOATS or self._types[value] == wanted:
            return
        name, producer = value.name, value.producer()
        assert producer is not None
        value.name = f"{name}_computed"
        given = ir.Value(name=name, shape=value.shape)
        self._graph.insert_after(producer, ir.node("Cast", [value], {"to": wanted.value}, outputs=[given]))
        self._declare(given, wanted)
        self._graph.outputs[index] = given


def _converted_constant(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
    """A constant of another type, whose numbers are made when they are written."""
    stored, shape = value.const_value, value.shape
    assert stored is not None and shape is not None
    element = dtype.numpy()

    def make() -> ir.Tensor:
        return ir.Tensor(stored.numpy().astype(element), name=name)

    return ir.Value(name=name, shape=shape, const_value=ir.LazyTensor(make, dtype, shape, name=name))


def _feeds_rounding(nodes: list[ir.Node]) -> set[ir.Node]:
    """Arithmetic between the last product and a ``Round``: what makes levels, of which a bf16 near 255 is one off."""
    found: set[ir.Node] = set()
    waiting = [node for node in nodes if node.op_type == "Round"]
    while waiting:
        node = waiting.pop()
        if node in found or node.op_type in (*PRODUCTS, "Shape"):
            continue
        found.add(node)
        waiting += [producer for value in node.inputs if value is not None and (producer := value.producer())]
    return found
