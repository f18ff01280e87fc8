"""torch module -> ONNX file, symbolic in the named dimensions."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from anyflow_rt.engines.export.deferred import Deferred

OPSET = 23
"""Attention and RMSNormalization are operators of their own from this opset on."""

Axes = tuple[str | int, ...]
"""One entry a dimension: a symbol, a multiple of one (``"2*h"``), or a fixed size."""


@dataclass(frozen=True)
class GraphInput:
    """One input of a graph: an example (no symbolic size 1, which the exporter would bake in) and its axes."""

    example: Tensor
    axes: Axes


def export_module(
    module: nn.Module,
    inputs: Mapping[str, GraphInput],
    outputs: Mapping[str, Axes],
    path: Path,
    deferred: Deferred | None = None,
) -> None:
    """Write ``module`` to ``path`` as ONNX, its weights to ``<path>.data`` beside it, one after another.

    ``inputs`` are passed by name, in the order of ``module.forward``; ``outputs`` names the results and their axes in
    their order. deferred: the mode that ``module`` was built in, if in one. Raises torch.onnx's own errors: a graph
    that does not export is a defect of ours, not of a user.
    """
    module = module.eval().requires_grad_(False)
    program = torch.export.export(
        module,
        args=(),
        kwargs=arguments_of(module, {name: value.example.contiguous() for name, value in inputs.items()}),
        dynamic_shapes=arguments_of(module, {name: _dynamic(value.axes) for name, value in inputs.items()}),
        strict=False,
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    with _quiet():
        onnx_program = _to_onnx(program, inputs, outputs, module, deferred)
        onnx_program.optimize()
    _name_axes(onnx_program.model.graph, inputs, outputs)
    onnx_program.save(str(path), external_data=True)


def export_shape_free(
    module: nn.Module,
    inputs: Mapping[str, GraphInput],
    outputs: Mapping[str, Axes],
    path: Path,
    deferred: Deferred | None = None,
) -> None:
    """As ``export_module``, several times faster, for a module that leaves no size in its trace (see ``shape_free``).

    The module is traced at the example sizes; all shapes the tracer noted are then dropped before anything is folded.
    """
    with _quiet():
        examples = arguments_of(module, {name: value.example.contiguous() for name, value in inputs.items()})
        module = module.eval().requires_grad_(False)
        onnx_program = _to_onnx(module, inputs, outputs, module, deferred, args=(), kwargs=examples)
        graph = onnx_program.model.graph
        for node in graph.all_nodes():
            for value in node.outputs:
                value.shape = None
        _name_axes(graph, inputs, outputs)
        onnx_program.optimize()
    onnx_program.save(str(path), external_data=True)


def _to_onnx(
    traced: nn.Module | torch.export.ExportedProgram,
    inputs: Mapping[str, GraphInput],
    outputs: Mapping[str, Axes],
    module: nn.Module,
    deferred: Deferred | None,
    **options: Any,
) -> torch.onnx.ONNXProgram:
    """``torch.onnx.export`` as every graph of ours wants it, not optimised; ``traced`` is ``module`` or made of it."""
    onnx_program = torch.onnx.export(
        traced,
        input_names=list(inputs),
        output_names=list(outputs),
        opset_version=OPSET,
        dynamo=True,
        optimize=False,
        verbose=False,
        **options,
    )
    assert onnx_program is not None
    if deferred is not None:
        deferred.fill(module, onnx_program.model.graph)
    return onnx_program


def arguments_of(module: nn.Module, values: Mapping[str, object]) -> dict[str, object]:
    """``values`` by the parameters of ``module.forward``; names it does not have go, as a tuple, to its last one."""
    parameters = list(inspect.signature(module.forward).parameters)
    arguments = {name: value for name, value in values.items() if name in parameters}
    rest = tuple(value for name, value in values.items() if name not in parameters)
    return {**arguments, parameters[-1]: rest} if rest else arguments


def _dynamic(axes: Axes) -> dict[int, object]:
    """torch.export's description of ``axes``. A stated multiple keeps its shape expressions short."""
    dims: dict[int, object] = {}
    for index, axis in enumerate(axes):
        if isinstance(axis, str):
            factor, _, symbol = axis.rpartition("*")
            dims[index] = int(factor) * Dim(symbol) if factor else Dim.DYNAMIC
    return dims


def _name_axes(graph: object, inputs: Mapping[str, GraphInput], outputs: Mapping[str, Axes]) -> None:
    """Give the graph's inputs and outputs the documented symbols instead of the exporter's s0, s1 ..."""
    import onnx_ir

    values = {value.name: value for value in [*graph.inputs, *graph.outputs]}  # type: ignore[attr-defined]
    wanted = {name: value.axes for name, value in inputs.items()} | dict(outputs)
    for name, axes in wanted.items():
        values[name].shape = onnx_ir.Shape(axes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints progress marks and warns about its own internals; neither helps a user."""
    names: Sequence[str] = ("torch.onnx", "onnxscript", "torch.export")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
