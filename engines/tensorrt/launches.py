"""Nodes of the domain ``anyflow`` as launches of our kernels, their numbers and grids as formulas over sizes.

A kernel inside an engine is compiled once, and launched with whatever sizes the engine then has. So its constants come
from the sizes that the engine is built for, and everything else that depends on sizes is a formula over the inputs'
axes: ``residual_2`` is the size of axis 2 of the input ``residual``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anyflow_rt.engines.kernel_nodes.kinds import KINDS
from anyflow_rt.errors import EngineError
from anyflow_rt.kernels.adaptive_norm.triton import plan_adaptive_norm
from anyflow_rt.kernels.adaptive_norm.vectors import Affine, FrameVectors, Gate, Modulation
from anyflow_rt.kernels.aot import PTX_VERSIONS, CompiledKernel
from anyflow_rt.kernels.attention.triton import plan_attention
from anyflow_rt.kernels.flow_map_update.triton import plan_flow_map_update
from anyflow_rt.kernels.grid import evaluate
from anyflow_rt.kernels.launch import Launch
from anyflow_rt.kernels.qk_norm_rope.triton import plan_qk_norm_rope

Numbers = Mapping[str, Any]
Tensors = Mapping[str, Tensor]

DTYPES = {1: torch.float32, 10: torch.float16, 16: torch.bfloat16}
"""By ONNX's number of the type, as ``normalised_type`` gives it."""


@dataclass(frozen=True)
class NodeLaunch:
    """How one kind of node is launched.

    plan: (inputs, attributes, target) -> launch; inputs without storage will do. numbers: formulas of the kernel's
    whole numbers, and of the sizes that only its grid needs. shapes: of each output, formulas over sizes and
    attributes. types: of each output the input whose type it has, or the attribute that says it.
    """

    plan: Callable[[Tensors, Numbers, int], Launch]
    numbers: Mapping[str, str]
    shapes: tuple[tuple[str, ...], ...]
    types: tuple[str, ...]


def sizes_of(name: str, sizes: Sequence[Any]) -> dict[str, Any]:
    """Each axis of the input ``name`` under the name that formulas have for it."""
    return {f"{name}_{axis}": size for axis, size in enumerate(sizes)}


def plan_node(kind: str, inputs: Tensors, attributes: Numbers, target: int) -> Launch:
    """The launch of a node. Raises EngineError, naming the argument, for inputs that the kernel does not take.

    It is also checked that the formulas give, for these sizes, what the launch itself computed from them.
    """
    node = NODES[kind]
    launch = node.plan(inputs, attributes, target)
    values = known_values(launch, {name: tuple(tensor.shape) for name, tensor in inputs.items()})
    for name, formula in node.numbers.items():
        wanted = launch.extents[name] if name in launch.extents else launch.arguments[name]
        if (found := evaluate(formula, values)) != wanted:
            raise EngineError(
                f"{kind}: {name} is {wanted} and its formula {formula} gives {found}; build without "
                "--triton-kernels, and report this"
            )
    return launch


def known_values(launch: Launch, sizes: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """What formulas may name: the constants of ``launch``, and the axes of the inputs."""
    axes = {key: size for name, shape in sizes.items() for key, size in sizes_of(name, shape).items()}
    return {**launch.constants, **axes}


def passed_numbers(kind: str, launch: Launch, kernel: CompiledKernel, inputs: Tensors) -> tuple[str, ...]:
    """Names of the whole numbers that ``kernel`` takes, in order.

    Raises EngineError unless TensorRT can launch it: it passes the inputs, then whole numbers, then the outputs, all by
    position, and null for what the entry takes beyond that; it brings no tensor memory, and an old driver has to know
    the PTX. (Scratch memory, clusters and tensor descriptors ``aot`` refuses.)
    """
    where = f"the kernel of {kind} for sm_{kernel.target}"
    if kernel.tensor_memory:
        raise EngineError(
            f"{where} takes {kernel.tensor_memory} columns of tensor memory, which TensorRT does not give it; build "
            "with  --triton-kernels norms  or  --engine triton"
        )
    version = PTX_VERSIONS[kernel.target]
    if f".version {version // 10}.{version % 10}\n" not in kernel.ptx:
        raise EngineError(f"{where} is not PTX {version // 10}.{version % 10}; install another version of triton")
    described, parameters = KINDS[kind], kernel.parameters
    first, last = len(described.inputs), len(parameters) - len(described.outputs)
    read, numbers, written = parameters[:first], parameters[first:last], parameters[last:]
    fits = all(launch.arguments[one.name] is inputs[name] for one, name in zip(read, described.inputs, strict=True))
    if not fits or any(one.type != "i32" for one in numbers) or any(not one.type.startswith("*") for one in written):
        taken = ", ".join(f"{one.name} ({one.type})" for one in parameters)
        raise EngineError(
            f"{where} takes {taken}; TensorRT passes {', '.join(described.inputs)}, whole numbers, "
            f"{', '.join(described.outputs)}: build without --triton-kernels, and report this"
        )
    return tuple(one.name for one in numbers)


def _modulation(inputs: Tensors, attributes: Numbers) -> Modulation:
    vectors = FrameVectors(inputs["modulation"], inputs["table"])
    return Modulation(vectors, attributes["shift"], attributes["scale"])


def _norm(inputs: Tensors, attributes: Numbers, target: int) -> Launch:
    """Of all five kinds: what a node has no inputs for, its join is without."""
    gate = norm = None
    if "gate_table" in inputs:
        gate = Gate(FrameVectors(inputs["gate_modulation"], inputs["gate_table"]), attributes["gate_row"])
    if "table" in inputs:
        norm = _modulation(inputs, attributes)
    affine = Affine(inputs["gain"], inputs["bias"]) if "gain" in inputs else None
    kept = {} if norm is None and affine is None else {"eps": attributes["eps"]}
    dtype = DTYPES[attributes["normalised_type"]] if kept else None
    return plan_adaptive_norm(
        inputs["residual"], inputs.get("branch"), gate=gate, norm=norm or affine, dtype=dtype, target=target, **kept
    )


def _queries(inputs: Tensors, attributes: Numbers, target: int) -> Launch:
    return plan_qk_norm_rope(*inputs.values(), heads=attributes["heads"], eps=attributes["eps"], target=target)


def _update(inputs: Tensors, attributes: Numbers, target: int) -> Launch:
    return plan_flow_map_update(*inputs.values(), target=target)


def _attention(inputs: Tensors, attributes: Numbers, target: int) -> Launch:
    return plan_attention(*inputs.values(), target=target)


_TOKENS = ("residual_0", "residual_1", "residual_2", "residual_3")
_NORM_NUMBERS = {"tokens": "residual_2", "batch": "residual_0", "frames": "residual_1"}
_HEADS = {3: ("packed_0", "heads", "packed_1", "packed_2 // (3 * heads)")}
_HEADS[1] = ("packed_0", "heads", "packed_1", "packed_2 // heads")
_QUERY_NUMBERS = {"length": "packed_1", "batch": "packed_0"}


def _strides(name: str, length: str) -> dict[str, str]:
    """Of a dense (B, heads, L, d), in the kernel's unit."""
    return {
        f"{name}_batch": f"{length} * (HEADS * HEAD_DIM) // UNIT",
        f"{name}_head": f"{length} * HEAD_DIM // UNIT",
        f"{name}_row": "HEAD_DIM // UNIT",
    }


_ATTENTION = NodeLaunch(
    _attention,
    {
        "query_length": "query_2",
        "key_length": "key_2",
        "batch": "query_0",
        **_strides("query", "query_2"),
        **_strides("key", "key_2"),
        **_strides("value", "key_2"),
    },
    (("query_0", "query_2", "query_1 * query_3"),),
    ("value",),
)

NODES: dict[str, NodeLaunch] = {
    "AdaptiveNorm": NodeLaunch(_norm, _NORM_NUMBERS, (_TOKENS,), ("normalised_type",)),
    "Join": NodeLaunch(_norm, _NORM_NUMBERS, (_TOKENS,), ("residual",)),
    **{
        kind: NodeLaunch(_norm, _NORM_NUMBERS, (_TOKENS, _TOKENS), ("residual", "normalised_type"))
        for kind in ("JoinAffine", "JoinNorm", "AddNorm")
    },
    "QkNormRope": NodeLaunch(_queries, _QUERY_NUMBERS, (_HEADS[3], _HEADS[3]), ("packed", "packed")),
    "QueryNorm": NodeLaunch(_queries, _QUERY_NUMBERS, (_HEADS[1],), ("packed",)),
    "FlowMapUpdate": NodeLaunch(
        _update,
        {
            "frames": "state_1",
            "rows": "state_3 // PATCH",
            "column_groups": "state_4 // (PATCH * GROUP)",
            "batch": "state_0",
        },
        (("state_0", "state_1", "state_2", "state_3", "state_4"),),
        ("state",),
    ),
    "PlainAttention": _ATTENTION,
    "BiasedAttention": _ATTENTION,
}
"""By kind, as ``kernel_nodes.kinds`` has them."""
