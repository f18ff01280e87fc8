"""Reading a typed graph: through its conversions of type, forwards and backwards, and saying where a pattern ended.

A graph that was exported and typed by this package has one form for each block. So whatever does not match is an error
that names its place, never a block that silently goes without its kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from anyflow_rt.engines.kernel_nodes.kinds import DOMAIN, FOR_PARSER, KINDS, VERSION
from anyflow_rt.errors import EngineError


def mismatch(place: str, wanted: str, found: object = None) -> EngineError:
    """The error of a pattern that ends at ``place``."""
    seen = "" if found is None else f" but {_described(found)}"
    return EngineError(
        f"the denoiser's graph has no {wanted} {place}{seen}, so no kernel can take over there; export it again with  "
        "anyflow-rt build --force, or build without --triton-kernels"
    )


def _described(found: object) -> str:
    if isinstance(found, ir.Node):
        return f"{found.op_type} ({found.name})"
    if isinstance(found, ir.Value):
        return f"the value {found.name}"
    return str(found)


def unconverted(value: ir.Value) -> ir.Value:
    """What ``value`` was before its type was changed."""
    while (node := value.producer()) is not None and node.op_type == "Cast":
        value = _input(node, 0)
    return value


def maker(value: ir.Value, *operators: str) -> ir.Node | None:
    """The node that made ``value``, conversions apart, if it is one of ``operators``."""
    node = unconverted(value).producer()
    return node if node is not None and node.op_type in operators else None


def operand_beside(node: ir.Node, value: ir.Value) -> ir.Value:
    """The other operand of a sum, difference or product."""
    first, second = _input(node, 0), _input(node, 1)
    return second if first is value else first


def readers(value: ir.Value, *operators: str) -> list[ir.Node]:
    """The nodes of ``operators`` that read ``value`` as it is."""
    return [node for node in dict.fromkeys(value.consumers()) if node.op_type in operators]


def only_reader(value: ir.Value, operator: str, place: str) -> ir.Node:
    """The one node that reads ``value``; it has to be ``operator``."""
    found = list(dict.fromkeys(value.consumers()))
    if len(found) != 1 or found[0].op_type != operator or value.is_graph_output():
        raise mismatch(place, operator, found[0] if found else value)
    return found[0]


def constant(value: ir.Value) -> ir.TensorProtocol | None:
    """The numbers of an initializer."""
    return value.const_value if value.is_initializer() else None


def attribute(node: ir.Node, name: str, otherwise: float) -> float:
    """A number."""
    found = node.attributes.get(name)
    return otherwise if found is None else found.value


def graph_input(value: ir.Value, name: str, place: str) -> ir.Value:
    """``value``, conversions apart; it has to be the graph's input ``name``."""
    source = unconverted(value)
    if not source.is_graph_input() or source.name != name:
        raise mismatch(place, f"use of {name}", source)
    return source


@dataclass(frozen=True)
class Results:
    """A value that a kernel takes over, in the type it is used in.

    ``replaced``: the values whose uses become uses of the kernel's output. ``between``: values on the way to them that
    only lay it out; they are of the new type from then on.
    """

    dtype: ir.DataType
    replaced: tuple[ir.Value, ...]
    start: ir.Value
    between: tuple[ir.Value, ...] = ()


def used_as(value: ir.Value) -> Results:
    """The type that ``value`` is used in: what it is turned into before anything else, reshaping apart."""
    between: list[ir.Value] = []
    last = value
    while True:
        users = list(dict.fromkeys(last.consumers()))
        if users and all(user.op_type == "Cast" for user in users) and not last.is_graph_output():
            types = {user.outputs[0].dtype for user in users}
            if len(types) == 1 and (dtype := types.pop()) is not None:
                return Results(dtype, tuple(user.outputs[0] for user in users), value, tuple(between))
        if len(users) != 1 or users[0].op_type != "Reshape" or last.is_graph_output():
            assert value.dtype is not None
            return Results(value.dtype, (), value)
        last = users[0].outputs[0]
        between.append(last)


def take_over(results: Results, made: ir.Value) -> None:
    """Let ``made`` be used in place of what ``results`` describes."""
    made.type, made.shape = ir.TensorType(results.dtype), results.start.shape
    results.start.replace_all_uses_with(made, replace_graph_outputs=True)
    last = made
    for value in results.between:
        value.type = ir.TensorType(results.dtype)
        last = value
    for value in results.replaced:
        value.replace_all_uses_with(last, replace_graph_outputs=True)


def insert_kernel(
    graph: ir.Graph, before: ir.Node, kind: str, inputs: Sequence[ir.Value], attributes: Mapping[str, float | int]
) -> tuple[ir.Value, ...]:
    """A new node in front of ``before``; its outputs, without types yet."""
    described = KINDS[kind]
    assert len(inputs) == len(described.inputs) and set(attributes) == set(described.attributes)
    number = sum(node.domain == DOMAIN and node.op_type == kind for node in graph)
    name = f"{kind}_{number}"
    outputs = [ir.Value(name=f"{name}_{output}") for output in described.outputs]
    numbers: dict[str, int | float] = {key: kept(attributes[key]) for key, kept in described.attributes.items()}
    node = ir.node(
        kind, list(inputs), {**numbers, **FOR_PARSER}, domain=DOMAIN, version=VERSION, outputs=outputs, name=name
    )
    graph.insert_before(before, node)
    return tuple(outputs)


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value
