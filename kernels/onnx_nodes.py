"""The operators as ONNX nodes: ``torch.ops.anyflow.flow_map_update`` becomes ``anyflow::FlowMapUpdate``.

    torch.onnx.export(model, ..., dynamo=True, custom_translation_table=translation_table())

A node's inputs are the operator's tensors in their order, those that are not given left out by an empty name; its
attributes are all its other arguments, those with the value None left out. Nodes and operators are derived from one
place, the schemas of ``library``. Whoever runs such a graph brings the kernels: a plugin, or a local function.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from anyflow_rt.errors import MissingPackageError
from anyflow_rt.kernels.library import NAMESPACE, OPERATORS

VERSION = 1
"""Of the domain ``anyflow``."""

_TYPES = ["tensor(float)", "tensor(bfloat16)", "tensor(float16)", "tensor(int32)"]
_ATTRIBUTES = {"int": "INT", "float": "FLOAT", "str": "STRING", "List[int]": "INTS"}


def node_name(operator: str) -> str:
    """``flow_map_update`` -> ``FlowMapUpdate``."""
    return "".join(part.capitalize() for part in operator.split("_"))


def translation_table() -> dict[Any, Callable[..., Any]]:
    """For ``torch.onnx.export``: every operator, and what writes its node.

    Raises MissingPackageError where onnx or onnxscript is not installed.
    """
    try:
        import onnx
        import onnxscript
    except ImportError as error:
        raise MissingPackageError(error.name or "onnx", "build", "exporting the operators to ONNX") from error
    opset = onnxscript.values.Opset(NAMESPACE, VERSION)

    def writer(name: str) -> Callable[..., Any]:
        schema = OPERATORS[name].default._schema
        node = onnxscript.values.Op(opset, node_name(name), _onnx_schema(onnx.defs.OpSchema, name, schema))
        return _translation(node, schema)

    return {operator.default: writer(name) for name, operator in OPERATORS.items()}


def _translation(node: Any, schema: Any) -> Callable[..., Any]:
    """A function of the operator's own arguments that writes ``node``."""
    empty = inspect.Parameter.empty
    parameters = [
        inspect.Parameter(
            argument.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=argument.default_value if argument.has_default_value() else empty,
        )
        for argument in schema.arguments
    ]
    signature = inspect.Signature(parameters)
    tensors = [argument.name for argument in schema.arguments if _is_tensor(argument)]

    # Without annotations: the exporter would read them, and take ours for those of each argument.
    def translate(*arguments, **named):
        bound = signature.bind(*arguments, **named)
        bound.apply_defaults()
        inputs = [bound.arguments.pop(name) for name in tensors]
        return node(*inputs, **{name: value for name, value in bound.arguments.items() if value is not None})

    translate.__signature__ = signature  # type: ignore[attr-defined]
    return translate


def _onnx_schema(kinds: Any, name: str, schema: Any) -> Any:
    """The node's schema; ``kinds`` is ``onnx.defs.OpSchema``."""
    optional, single = kinds.FormalParameterOption.Optional, kinds.FormalParameterOption.Single
    inputs, attributes, constraints = [], [], []
    for argument in schema.arguments:
        kind = argument.type.getElementType() if isinstance(argument.type, torch.OptionalType) else argument.type
        if _is_tensor(argument):
            option = optional if isinstance(argument.type, torch.OptionalType) else single
            inputs.append(kinds.FormalParameter(argument.name, f"T_{argument.name}", param_option=option))
            constraints.append((f"T_{argument.name}", _TYPES, ""))
        else:
            attribute = getattr(kinds.AttrType, _ATTRIBUTES[str(kind)])
            attributes.append(kinds.Attribute(argument.name, attribute, required=False))
    outputs = [kinds.FormalParameter(f"output_{index}", f"T_{index}") for index in range(len(schema.returns))]
    constraints += [(f"T_{index}", _TYPES, "") for index in range(len(schema.returns))]
    return kinds(
        node_name(name),
        NAMESPACE,
        VERSION,
        inputs=inputs,
        outputs=outputs,
        type_constraints=constraints,
        attributes=attributes,
    )


def _is_tensor(argument: Any) -> bool:
    kind = argument.type
    return isinstance(kind.getElementType() if isinstance(kind, torch.OptionalType) else kind, torch.TensorType)
