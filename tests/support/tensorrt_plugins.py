"""Our plugins as enterprise TensorRT would use them while it builds, with its own bindings and without its libraries.

The bindings' own classes call our functions: they make a plugin of a node's attributes, as the ONNX parser gives them,
and ask it for types, shapes, kernel, grid and numbers. What the libraries would supply is made here: a registry, and
expressions of sizes, which are numbers. ``main`` is for a process of its own, where kernels are not interpreted.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

TYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}


@dataclass(frozen=True)
class Port:
    """An input. ``shape``: of a run; ``smallest``, ``usual``, ``largest``: of the build, where they vary."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    smallest: tuple[int, ...] | None = None
    usual: tuple[int, ...] | None = None
    largest: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Call:
    """One node of ``kind``."""

    kind: str
    inputs: dict[str, Port]
    attributes: dict[str, float | int] = field(default_factory=dict)
    target: int = 89


def main() -> None:
    """Calls as JSON on standard input -> what TensorRT would launch for each, as JSON, on the last line of output."""
    from support.tensorrt_bindings import load

    from anyflow_rt.engines.tensorrt.plugins import register_plugins

    trt = load()
    registry = Registry()
    # There is none without TensorRT's libraries.
    trt.get_plugin_registry = lambda: registry
    answers = []
    for values in json.loads(sys.stdin.read()):
        inputs = {name: Port(**port) for name, port in values.pop("inputs").items()}
        call = Call(inputs=inputs, **values)
        plugins = register_plugins(trt, call.target)
        answers.append(ask(trt, registry, call, plugins))
    print(json.dumps(answers))


class Registry:
    """Where plugins are registered and looked up by name and namespace."""

    def __init__(self) -> None:
        self.creators: dict[tuple[str, str], Any] = {}

    def register_creator(self, creator: Any, namespace: str) -> bool:
        self.creators[namespace, creator.name] = creator
        return True

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        assert version == "1"
        return self.creators[namespace, name]


def ask(trt: ModuleType, registry: Registry, call: Call, plugins: Any) -> dict[str, Any]:
    """Outputs, kernel, grid, block, shared memory and numbers of one node."""
    from anyflow_rt.engines.kernel_nodes.kinds import DOMAIN

    plugin = registry.get_creator(call.kind, "1", DOMAIN).create_plugin(
        call.kind,
        DOMAIN,
        _fields(trt, call.attributes),
        trt.TensorRTPhase.BUILD,
        trt.QuickPluginCreationRequest.STRICT_AOT,
    )
    builder, number = _expressions(trt)
    ports = list(call.inputs.values())
    types = plugin.get_output_data_types([_type(trt, port) for port in ports], [len(port.shape) for port in ports])
    sizes = [[number(size) for size in port.shape] for port in ports]
    plugin.get_output_shapes(sizes, [], builder)
    shapes = [tuple(size._expr.value for size in output.shape_expr) for output in plugin.output_descs]
    described = [_described(trt, port) for port in ports]
    described += [_description(trt, shape, kind) for shape, kind in zip(shapes, types, strict=True)]

    returned: list[Any] = []
    implement = plugin.aot_impl_function
    plugin.aot_impl_function = lambda *values: returned.append(implement(*values)) or returned[-1]
    plugin.set_tactic(0)
    plugin.get_launch_params(sizes, described, len(ports), Holder(), Holder(), builder)
    name, ptx = plugin.get_kernel(
        [one.desc for one in described[: len(ports)]], [one.desc for one in described[len(ports) :]]
    )
    _, _, launched, numbers = returned[-1]
    kernel = next(kernel for kernel in plugins.kernels.values() if kernel.ptx.encode() == ptx)
    return {
        "outputs": [[list(shape), _name(kind)] for shape, kind in zip(shapes, types, strict=True)],
        "name": name,
        "entry": [asdict(parameter) for parameter in kernel.parameters],
        "op": kernel.op,
        "constants": kernel.constants,
        "grid": [getattr(launched, f"grid_{axis}")._expr.value for axis in "xyz"],
        "block": [getattr(launched, f"block_{axis}")._expr.value for axis in "xyz"],
        "shared": launched.shared_mem._expr.value,
        "warps": kernel.warps,
        "numbers": [one._expr.value for one in numbers],
        "ptx": ptx.decode(),
        "kernels": len(plugins.kernels),
    }


class Holder(dict):
    """Takes whatever TensorRT is told of a launch."""


def _fields(trt: ModuleType, attributes: dict[str, float | int]) -> Any:
    """As the ONNX parser hands attributes on: whole numbers of 32 bits, and float32."""
    kinds = {int: (np.int32, trt.PluginFieldType.INT32), float: (np.float32, trt.PluginFieldType.FLOAT32)}
    fields = [
        trt.PluginField(name, np.array([value], kinds[type(value)][0]), kinds[type(value)][1])
        for name, value in attributes.items()
    ]
    return trt.PluginFieldCollection(fields)


def _expressions(trt: ModuleType) -> tuple[Any, Any]:
    """What makes expressions of sizes, and one of a number; they are all known."""
    operations = {
        "SUM": lambda a, b: a + b,
        "SUB": lambda a, b: a - b,
        "PROD": lambda a, b: a * b,
        "FLOOR_DIV": lambda a, b: a // b,
        "CEIL_DIV": lambda a, b: -(-a // b),
    }

    class Number(trt.IDimensionExpr):  # type: ignore[name-defined]
        value: int

        def is_constant(self) -> bool:
            return True

        def get_constant_value(self) -> int:
            return self.value

    def number(value: int) -> Any:
        made = Number.__new__(Number)
        made.value = int(value)
        return made

    class Builder:
        def constant(self, value: int) -> Any:
            return number(value)

        def operation(self, operation: Any, first: Any, second: Any) -> Any:
            return number(operations[operation.name](first.value, second.value))

    return Builder(), number


def _described(trt: ModuleType, port: Port) -> Any:
    usual, smallest, largest = (given or port.shape for given in (port.usual, port.smallest, port.largest))
    shape = [size if size == least == most else -1 for size, least, most in zip(usual, smallest, largest, strict=True)]
    description = _description(trt, shape, _type(trt, port))
    description.min, description.opt, description.max = (trt.Dims(given) for given in (smallest, usual, largest))
    return description


def _description(trt: ModuleType, shape: Any, kind: Any) -> Any:
    tensor = trt.PluginTensorDesc()
    tensor.dims, tensor.type, tensor.format = trt.Dims(shape), kind, trt.TensorFormat.LINEAR
    description = trt.DynamicPluginTensorDesc()
    description.desc = tensor
    description.min = description.opt = description.max = trt.Dims(shape)
    return description


def _type(trt: ModuleType, port: Port) -> Any:
    return getattr(trt.DataType, TYPES[port.dtype])


def _name(kind: Any) -> str:
    return next(ours for ours, theirs in TYPES.items() if theirs == kind.name)
