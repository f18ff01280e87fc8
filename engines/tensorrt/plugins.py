"""The nodes of the domain ``anyflow`` as plugins of enterprise TensorRT, their kernels compiled ahead of time.

``register_plugins`` makes a "quick deployable" plugin of each kind: a function that describes the outputs, and one that
gives PTX, grid and numbers, as TensorRT asks for them while it builds. The kernels are then part of the engine: to run
it takes neither these plugins, nor Triton, nor Python. TensorRT for RTX has no plugins.

TensorRT reads inputs, attributes and their types from the functions' signatures, so those are made here. Checked with
TensorRT's own bindings and interpreted kernels; not yet run on a GPU.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch

from anyflow_rt.engines.kernel_nodes.kinds import DOMAIN, KINDS, NodeKind
from anyflow_rt.engines.tensorrt.launches import DTYPES, NODES, known_values, passed_numbers, plan_node, sizes_of
from anyflow_rt.errors import AnyflowError
from anyflow_rt.kernels.aot import CompiledKernel, compile_launch, launch_key
from anyflow_rt.kernels.grid import cdiv, expression

_registered: dict[str, Plugins] = {}
"""By the package's name: TensorRT keeps plugins for the life of the process."""


def register_plugins(trt: ModuleType, target: int) -> Plugins:
    """Every kind, with kernels for compute capability ``target`` (90) from now on.

    Raises MissingPackageError without Triton.
    """
    if trt.__name__ not in _registered:
        _registered[trt.__name__] = Plugins(trt)
    plugins = _registered[trt.__name__]
    plugins.target, plugins.failure = target, None
    return plugins


class Plugins:
    """``failure``: what went wrong in a function that TensorRT called; of that, it says itself only that it failed.

    ``kernels``: those compiled so far, by ``aot.launch_key``; what is alike in all blocks is compiled once.
    """

    def __init__(self, trt: ModuleType) -> None:
        self._plugin: ModuleType = importlib.import_module(f"{trt.__name__}.plugin")
        types = {torch.float32: trt.DataType.FLOAT, torch.float16: trt.DataType.HALF, torch.bfloat16: trt.DataType.BF16}
        self._types: dict[torch.dtype, Any] = types
        self.kernels: dict[str, CompiledKernel] = {}
        self.target = 0
        self.failure: AnyflowError | None = None
        for kind in KINDS.values():
            self._register(kind)

    def _register(self, kind: NodeKind) -> None:
        plugin = self._plugin
        name, tensors = f"{DOMAIN}::{kind.name}", dict.fromkeys(kind.inputs, plugin.TensorDesc)
        described: tuple[Any, ...] = (plugin.TensorDesc,) * len(kind.outputs)
        outputs = tuple.__class_getitem__(described)

        def describe(*inputs: Any, **attributes: Any) -> tuple[Any, ...]:
            return self._noting(self._describe, kind, inputs, attributes)

        def implement(*values: Any) -> tuple[str, str, Any, Any]:
            return self._noting(self._implement, kind, values)

        arguments = {**tensors, **kind.attributes}
        plugin.register(name)(_signed(describe, arguments, outputs))
        result = tuple[str, str, plugin.KernelLaunchParams, plugin.SymExprs]  # type: ignore[name-defined]
        plugin.aot_impl(name)(_signed(implement, {**arguments, "outputs": outputs, "tactic": int}, result))

    def _noting(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except AnyflowError as error:
            self.failure = error
            raise

    def _describe(self, kind: NodeKind, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> tuple[Any, ...]:
        node, given = NODES[kind.name], dict(zip(kind.inputs, inputs, strict=True))
        axes = {key: size for name, one in given.items() for key, size in sizes_of(name, one.shape_expr).items()}
        outputs = []
        for formulas, source in zip(node.shapes, node.types, strict=True):
            shape = tuple(self._expression(formula, {**axes, **attributes}) for formula in formulas)
            dtype = given[source].dtype if source in given else self._types[DTYPES[attributes[source]]]
            outputs.append(self._plugin.from_shape_expr(shape, dtype))
        return tuple(outputs)

    def _implement(self, kind: NodeKind, values: Sequence[Any]) -> tuple[str, str, Any, Any]:
        """Kernel name, PTX, grid and threads, and the whole numbers that go between inputs and outputs."""
        plugin, count = self._plugin, len(kind.inputs)
        given = dict(zip(kind.inputs, values[:count], strict=True))
        attributes = dict(zip(kind.attributes, values[count : count + len(kind.attributes)], strict=True))
        inputs = {name: self._stand_in(shape, given[name].dtype) for name, shape in built_for(kind.name, given).items()}
        launch = plan_node(kind.name, inputs, attributes, self.target)
        key = launch_key(launch, self.target)
        if key not in self.kernels:
            self.kernels[key] = compile_launch(launch, self.target)
        kernel = self.kernels[key]
        names = passed_numbers(kind.name, launch, kernel, inputs)

        sizes = known_values(launch, {name: one.shape_expr for name, one in given.items()})
        numbers = {name: self._expression(text, sizes) for name, text in NODES[kind.name].numbers.items()}
        grid = [self._expression(text, {**launch.constants, **numbers}) for text in kernel.grid]
        launched = plugin.KernelLaunchParams()
        for axis, programs in zip(("grid_x", "grid_y", "grid_z"), grid, strict=False):
            setattr(launched, axis, programs)
        launched.block_x, launched.shared_mem = 32 * kernel.warps, kernel.shared_bytes
        passed = plugin.SymIntExprs.from_tuple([plugin.SymInt32(numbers[name]) for name in names])
        return kernel.name, kernel.ptx, launched, passed

    def _expression(self, formula: str, values: Mapping[str, Any]) -> Any:
        def divided(first: Any, second: Any) -> Any:
            whole = isinstance(first, int) and isinstance(second, int)
            return cdiv(first, second) if whole else self._plugin.cdiv(first, second)

        return expression(formula, values, (int, self._plugin.SymInt32), divided)

    def _stand_in(self, shape: tuple[int, ...], dtype: Any) -> torch.Tensor:
        known = {kind: dtype for dtype, kind in self._types.items()}
        return torch.empty(shape, dtype=known[dtype], device="meta")


def built_for(kind: str, inputs: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The sizes that a kernel's constants come from: those the engine is built for, the usual ones where they vary.

    One constant may not vary: the update takes columns in groups of a fixed size. Where the width does, it is planned
    for an odd number of columns, whose groups are single ones.
    """
    shapes = {name: tuple(one.shape.opt if one.shape.is_dynamic else one.shape) for name, one in inputs.items()}
    if kind != "FlowMapUpdate" or not inputs["state"].shape.is_dynamic:
        return shapes
    state = inputs["state"].shape
    if state.min[4] == state.max[4]:
        return shapes
    (batch, frames, channels, height, width), features = shapes["state"], shapes["tokens"][2]
    patch = round((features // channels) ** 0.5)
    columns = width // patch | 1
    shapes["tokens"] = (batch, frames * (height // patch) * columns, features)
    shapes["state"] = (batch, frames, channels, height, columns * patch)
    return shapes


def _signed(function: Callable[..., Any], arguments: Mapping[str, Any], result: Any) -> Callable[..., Any]:
    """``function`` with the signature that TensorRT is to read."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind, annotation=annotation) for name, annotation in arguments.items()]
    function.__signature__ = inspect.Signature(parameters, return_annotation=result)  # type: ignore[attr-defined]
    return function
