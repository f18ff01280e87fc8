"""Plugins as TensorRT asks them, kernels as it would launch them: what comes out is what the node's function says.

TensorRT's own classes ask in a process of its own, where kernels are compiled. What they were told (arguments in which
order, grid, numbers) drives the same kernel here, interpreted, with the constants it was compiled with.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from support.kernels import assert_close, tensors
from support.tensorrt_bindings import missing
from support.tensorrt_plugins import Call, Port
from torch import Tensor

from anyflow_rt.engines.kernel_nodes.kinds import DOMAIN, KINDS, OPSET, VERSION
from anyflow_rt.engines.tensorrt.launches import DTYPES, NODES, passed_numbers, plan_node
from anyflow_rt.errors import EngineError
from anyflow_rt.kernels.adaptive_norm.triton import ADAPTIVE_NORM
from anyflow_rt.kernels.aot import PTX_VERSIONS, CompiledKernel
from anyflow_rt.kernels.attention.triton import ATTENTION
from anyflow_rt.kernels.entry import HIDDEN, Parameter, entry_widths
from anyflow_rt.kernels.flow_map_update.triton import FLOW_MAP_UPDATE
from anyflow_rt.kernels.package import INTERPRETED
from anyflow_rt.kernels.qk_norm_rope.triton import QK_NORM_ROPE

KERNELS = {kernel.op: kernel for kernel in (ADAPTIVE_NORM, ATTENTION, FLOW_MAP_UPDATE, QK_NORM_ROPE)}
EPS = 1e-6
BATCH, FRAMES, TOKENS, WIDTH, HEADS, DIM = 2, 3, 5, 24, 3, 8
LENGTH = FRAMES * TOKENS
ONNX_TYPES = {"float32": 1, "float16": 10, "bfloat16": 16}


def norm_call(kind: str, branch: str = "bfloat16", normalised: str = "bfloat16") -> Call:
    shapes = {
        "residual": Port((BATCH, FRAMES, TOKENS, WIDTH)),
        "branch": Port((BATCH, FRAMES, TOKENS, WIDTH), branch),
        "gate_modulation": Port((BATCH, FRAMES, 6, WIDTH)),
        "gate_table": Port((6, WIDTH)),
        # The head's: one vector for both rows of its table.
        "modulation": Port((BATCH, FRAMES, 1 if kind == "JoinNorm" else 6, WIDTH)),
        "table": Port((2 if kind == "JoinNorm" else 6, WIDTH)),
        "gain": Port((WIDTH,)),
        "bias": Port((WIDTH,)),
    }
    values = {"gate_row": 5, "shift": 0, "scale": 1, "eps": EPS, "normalised_type": ONNX_TYPES[normalised]}
    described = KINDS[kind]
    return Call(
        kind, {name: shapes[name] for name in described.inputs}, {name: values[name] for name in described.attributes}
    )


def attention_call(kind: str, keys: int, built: tuple[int, int, int] | None = None) -> Call:
    """``built``: smallest, usual and largest number of keys of the engine, where it varies."""

    def port(dtype: str, *around: int) -> Port:
        """Of sizes (BATCH, ..., keys, ...)."""

        def shape(length: int) -> tuple[int, ...]:
            return (BATCH, *around[:1], length, *around[1:])

        return Port(shape(keys), dtype, *(() if built is None else map(shape, built)))

    shapes = {
        "query": Port((BATCH, HEADS, LENGTH, DIM), "float16"),
        "key": port("float16", HEADS, DIM),
        "value": port("float16", HEADS, DIM),
        "key_bias": port("float32"),
    }
    return Call(kind, {name: shapes[name] for name in KINDS[kind].inputs})


def update_call(rows: int, columns: int, built: tuple[int, int, int] | None = None) -> Call:
    """``built``: smallest, usual and largest columns of the engine, where they vary."""

    def shapes(columns: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (BATCH, FRAMES * rows * columns, 4 * 3), (BATCH, FRAMES, 3, 2 * rows, 2 * columns)

    def ports(index: int, dtype: str) -> Port:
        sizes = [None, None, None] if built is None else [shapes(each)[index] for each in built]
        return Port(shapes(columns)[index], dtype, *sizes)

    inputs = {"tokens": ports(0, "bfloat16"), "state": ports(1, "float32"), "interval": Port((BATCH, FRAMES))}
    return Call("FlowMapUpdate", inputs, {"patch": 2})


ROPE = {
    "packed": Port((BATCH, LENGTH, 3 * HEADS * DIM), "bfloat16"),
    "query_gain": Port((HEADS * DIM,)),
    "key_gain": Port((HEADS * DIM,)),
    "rope_cos": Port((LENGTH, DIM // 2)),
    "rope_sin": Port((LENGTH, DIM // 2)),
}
GROWN = {
    "residual": Port((1, 2, 11, WIDTH), "float32", (1, 1, 2, WIDTH), (1, 3, 40, WIDTH), (1, 5, 90, WIDTH)),
    "modulation": Port((1, 2, 6, WIDTH), "float32", (1, 1, 6, WIDTH), (1, 3, 6, WIDTH), (1, 5, 6, WIDTH)),
    "table": Port((6, WIDTH)),
}
CALLS = {
    "AdaptiveNorm": norm_call("AdaptiveNorm"),
    "AdaptiveNorm into float32": norm_call("AdaptiveNorm", normalised="float32"),
    "AdaptiveNorm of any size": Call(
        "AdaptiveNorm", GROWN, {"shift": 3, "scale": 4, "eps": EPS, "normalised_type": 10}
    ),
    "Join": norm_call("Join"),
    "JoinAffine": norm_call("JoinAffine", "float16", "float16"),
    "JoinNorm": norm_call("JoinNorm"),
    "AddNorm": norm_call("AddNorm"),
    "QkNormRope": Call("QkNormRope", ROPE, {"heads": HEADS, "eps": EPS}),
    "QueryNorm": Call(
        "QueryNorm",
        {"packed": Port((BATCH, LENGTH, HEADS * DIM), "float16"), "query_gain": Port((HEADS * DIM,))},
        {"heads": HEADS, "eps": EPS},
    ),
    "FlowMapUpdate": update_call(2, 8),
    "FlowMapUpdate of any size": update_call(2, 3, (2, 8, 12)),
    "PlainAttention": attention_call("PlainAttention", LENGTH),
    "BiasedAttention": attention_call("BiasedAttention", 7),
    "BiasedAttention of prompts of any length": attention_call("BiasedAttention", 9, (34, 66, 514)),
}


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    """What TensorRT was told of each call."""
    if why := missing():
        pytest.skip(why)
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from support.tensorrt_plugins import main; main()"],
        input=json.dumps([dataclasses.asdict(call) for call in CALLS.values()]),
        env={**kept, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(CALLS, json.loads(done.stdout.splitlines()[-1]), strict=True))


def inputs_of(call: Call) -> dict[str, Tensor]:
    made = {}
    for seed, (name, port) in enumerate(call.inputs.items()):
        made[name] = tensors(*port.shape, dtype=getattr(torch, port.dtype), seed=seed)
    if "interval" in made:
        made["interval"][0, 0] = 0
    return made


def by_function(call: Call, given: dict[str, Tensor]) -> list[Tensor]:
    """The node's ONNX function, run by ONNX Runtime in float32."""
    described = KINDS[call.kind]
    attributes = {**call.attributes, **({"normalised_type": 1} if "normalised_type" in call.attributes else {})}
    inputs = [
        ir.Value(name=name, shape=ir.Shape(call.inputs[name].shape), type=ir.TensorType(ir.DataType.FLOAT))
        for name in described.inputs
    ]
    outputs = [ir.Value(name=f"{name}_out", type=ir.TensorType(ir.DataType.FLOAT)) for name in described.outputs]
    node = ir.node(call.kind, inputs, attributes, domain=DOMAIN, version=VERSION, outputs=outputs)
    graph = ir.Graph(inputs, outputs, nodes=[node], opset_imports={"": OPSET, DOMAIN: VERSION}, name="one")
    function = described.function
    model = ir.Model(graph, ir_version=10, functions=[function])
    session = onnxruntime.InferenceSession(ir.serde.serialize_model(model).SerializeToString())
    arrays = {name: tensor.float().numpy() for name, tensor in given.items()}
    return [torch.from_numpy(np.asarray(each)) for each in session.run(None, arrays)]


@pytest.mark.skipif(not INTERPRETED, reason="drives interpreted kernels")
@pytest.mark.parametrize("name", CALLS)
def test_what_tensorrt_is_told_drives_the_kernel_to_the_functions_result(name: str, answers: dict[str, Any]) -> None:
    call, answer = CALLS[name], answers[name]
    given = inputs_of(call)
    outputs = [torch.full(shape, torch.nan, dtype=getattr(torch, dtype)) for shape, dtype in answer["outputs"]]
    # TensorRT passes inputs, numbers and outputs by position; the entry's names say what the kernel takes them for.
    passed = [*given.values(), *answer["numbers"], *outputs]
    named = dict(zip((one["name"] for one in answer["entry"]), passed, strict=True))
    function = KERNELS[answer["op"]].function
    function[tuple(answer["grid"])](**named, **answer["constants"])
    wanted = by_function(call, given)
    assert len(wanted) == len(outputs)
    for found, expected in zip(outputs, wanted, strict=True):
        assert_close(found, expected.view(found.shape))


def test_what_an_engine_embeds(answers: dict[str, Any]) -> None:
    version = PTX_VERSIONS[89]
    for name, answer in answers.items():
        widths = entry_widths(answer["ptx"], answer["name"])
        passed = len(CALLS[name].inputs) + len(answer["numbers"]) + len(answer["outputs"])
        assert len(widths) == passed + HIDDEN
        assert f".version {version // 10}.{version % 10}\n" in answer["ptx"] and ".target sm_89" in answer["ptx"]
        assert answer["block"] == [32 * answer["warps"], 1, 1]
        described = KINDS[CALLS[name].kind]
        assert len(answer["outputs"]) == len(described.outputs)
    # What is alike is compiled once, whoever asks for it.
    assert answers["BiasedAttention"]["kernels"] <= len(CALLS)


def test_every_kind_is_asked_and_has_a_launch() -> None:
    assert set(NODES) == set(KINDS) == {call.kind for call in CALLS.values()}
    for kind, node in NODES.items():
        assert len(node.shapes) == len(node.types) == len(KINDS[kind].outputs)
    assert set(DTYPES) == set(ONNX_TYPES.values())


def compiled(**changed: Any) -> CompiledKernel:
    return CompiledKernel(
        **{
            "op": "qk_norm_rope",
            "name": "_kernel",
            "target": 89,
            "key": "0",
            "grid": (),
            "parameters": tuple(
                Parameter(name, kind)
                for name, kind in (("packed", "*fp32"), ("query_gain", "*fp32"), ("length", "i32"), ("query", "*fp32"))
            ),
            "constants": {},
            "extents": (),
            "warps": 1,
            "shared_bytes": 0,
            "tensor_memory": 0,
            "ptx_version": 80,
            "compiler": "none",
            "cubin": b"",
            "ptx": ".version 8.0\n",
            **changed,
        }
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"tensor_memory": 64}, "64 columns of tensor memory, which TensorRT does not give it; build with  --triton"),
        ({"ptx": ".version 9.4\n"}, "is not PTX 8.0; install another version of triton"),
        (
            {"parameters": tuple(map(Parameter, ("packed", "query_gain", "query"), ("*fp32", "*fp32", "fp32")))},
            r"takes packed \(\*fp32\), .* query \(fp32\); TensorRT passes packed, query_gain, whole numbers, query",
        ),
        (
            {"parameters": tuple(Parameter(name, "*fp32") for name in ("query_gain", "packed", "query"))},
            "TensorRT passes packed, query_gain",
        ),
    ],
)
def test_kernels_that_an_engine_cannot_take(changed: dict[str, Any], words: str) -> None:
    given = {"packed": torch.empty(1, 4, 16, device="meta"), "query_gain": torch.empty(16, device="meta")}
    launch = plan_node("QueryNorm", given, {"heads": 2, "eps": EPS}, 89)
    assert passed_numbers("QueryNorm", launch, compiled(), given) == ("length",)
    with pytest.raises(EngineError, match=words):
        passed_numbers("QueryNorm", launch, compiled(**changed), given)
