"""The ops as PyTorch operators: what they declare is what they do, they compile, and they become ONNX nodes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import onnx
import pytest
import torch
from support.kernels import DEVICE, INT8_ERROR, Memory, assert_close, tensors
from torch import Tensor, nn

from anyflow_rt.errors import EngineError, MissingPackageError, UsageError
from anyflow_rt.kernels import launch
from anyflow_rt.kernels.attention.implementations import IMPLEMENTATIONS, attention_by_name
from anyflow_rt.kernels.attention.reference import attention_reference
from anyflow_rt.kernels.library import OPERATORS
from anyflow_rt.kernels.onnx_nodes import translation_table
from anyflow_rt.kernels.package import INTERPRETED
from anyflow_rt.kernels.qk_norm_rope.triton import packed_value

BATCH, FRAMES, ROWS, COLUMNS, CHANNELS, HEADS, DIM = 1, 2, 1, 3, 4, 2, 8
TOKENS, WIDTH, LENGTH = ROWS * COLUMNS, HEADS * DIM, FRAMES * ROWS * COLUMNS

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def samples(of: Callable[[Tensor], Tensor]) -> dict[str, list[Arguments]]:
    """Arguments of every operator, each way it is called. ``of`` puts a tensor where it is wanted."""

    def make(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        return of(tensors(*shape, seed=seed, dtype=dtype))

    tokens, state = make(BATCH, LENGTH, 4 * CHANNELS), make(BATCH, FRAMES, CHANNELS, 2 * ROWS, 2 * COLUMNS, seed=1)
    x, branch = (make(BATCH, FRAMES, TOKENS, WIDTH, seed=seed) for seed in (2, 3))
    vectors = make(BATCH, FRAMES, 6, WIDTH, seed=4), make(6, WIDTH, seed=5)
    gain, bias = make(WIDTH, seed=6), make(WIDTH, seed=7)
    angles = make(LENGTH, DIM // 2, seed=8), make(LENGTH, DIM // 2, seed=9)
    packed = make(BATCH, LENGTH, 3 * WIDTH, seed=10, dtype=torch.bfloat16)
    query, key, value = (make(BATCH, HEADS, n, DIM, seed=n) for n in (LENGTH, 5, 5))
    interval = of(torch.linspace(0, 1, BATCH * FRAMES).view(BATCH, FRAMES))
    return {
        "flow_map_update": [
            ((tokens, state, interval), {}),
            ((tokens, state, interval, make(*tokens.shape, seed=11), make(BATCH, seed=12)), {}),
        ],
        "adaptive_norm": [((x, *vectors, 0, 1), {}), ((x,), {"gain": gain, "bias": bias, "eps": 1e-5})],
        "join": [((x, branch), {}), ((x, branch, *vectors, 2), {})],
        "join_norm": [
            ((x, branch, *vectors, 2), {"gain": gain, "bias": bias}),
            ((x, branch, None, None, 0, *vectors, 3, 4), {"eps": 1e-5}),
        ],
        "qk_norm_rope": [((packed, make(WIDTH, seed=13), make(WIDTH, seed=14), *angles, HEADS, "halves"), {})],
        "query_norm": [((make(BATCH, LENGTH, WIDTH, seed=15), gain, HEADS), {})],
        "attention": [
            ((query, key, value), {}),
            ((query, key, value, make(BATCH, 5, seed=16)), {"scale": 0.5}),
            ((query, query, query), {"chunks": [2, 4]}),
        ],
        "cached_attention": [((query, query, query, key, value, of(torch.tensor([3, 4], dtype=torch.int32))), {})],
    }


CALLS = [(name, index) for name, calls in samples(lambda tensor: tensor).items() for index in range(len(calls))]


def test_every_operator_is_sampled() -> None:
    assert set(samples(lambda tensor: tensor)) == set(OPERATORS)


@pytest.mark.parametrize(("name", "index"), CALLS)
def test_schema_and_fake_tensors_are_true(
    name: str, index: int, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``opcheck``: nothing is changed or aliased, fake outputs are like the real ones, and tracing gives the same."""
    # An output between guards does not begin where its storage does, and opcheck compares that too.
    monkeypatch.setattr(launch, "allocate", lambda shape, dtype, device: torch.empty(shape, dtype=dtype, device=device))
    arguments, named = samples(memory.tensor)[name][index]
    torch.library.opcheck(OPERATORS[name], arguments, named)


class Jump(nn.Module):
    """A small model over every operator, tensors as ``samples`` gives them."""

    def forward(self, packed: Tensor, gain: Tensor, cos: Tensor, x: Tensor, vectors: Tensor, state: Tensor) -> Tensor:
        query, key = torch.ops.anyflow.qk_norm_rope(packed, gain, gain, cos, cos, HEADS, "halves")
        attended = torch.ops.anyflow.attention(query, key, packed_value(packed, HEADS))
        query = torch.ops.anyflow.query_norm(attended, gain, HEADS)
        branch = torch.ops.anyflow.attention(query, key, key, packed[..., 0].float().contiguous(), scale=0.25)
        branch = branch.view_as(x)
        joined = torch.ops.anyflow.join(x, branch)
        table = vectors[0, 0].contiguous()
        joined, y = torch.ops.anyflow.join_norm(joined, branch, vectors, table, 2, gain=gain, bias=gain)
        y = y + torch.ops.anyflow.adaptive_norm(joined, vectors, table, 3, 4)
        interval = vectors[:, :, 0, 0].contiguous()
        return torch.ops.anyflow.flow_map_update(y.flatten(1, 2), state, interval)


def jump_inputs() -> tuple[Tensor, ...]:
    shapes = [
        (BATCH, LENGTH, 3 * WIDTH),
        (WIDTH,),
        (LENGTH, DIM // 2),
        (BATCH, FRAMES, TOKENS, WIDTH),
        (BATCH, FRAMES, 6, WIDTH),
        (BATCH, FRAMES, CHANNELS, 2 * ROWS, 2 * COLUMNS),
    ]
    return tuple(tensors(*shape, seed=seed).to(DEVICE) for seed, shape in enumerate(shapes))


def test_a_model_compiles_whole_and_gives_the_same() -> None:
    """``fullgraph``: no operator breaks the graph. Fusing is the compiler's business, so the plain backend will do."""
    inputs = jump_inputs()
    wanted = Jump()(*inputs)
    with torch.inference_mode():
        found = torch.compile(Jump(), backend="aot_eager", fullgraph=True)(*inputs)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_a_model_exports_to_nodes_of_our_domain() -> None:
    model = Jump().to(DEVICE).eval()
    program = torch.onnx.export(
        model, jump_inputs(), dynamo=True, verbose=False, custom_translation_table=translation_table()
    )
    assert program is not None
    proto = program.model_proto
    onnx.checker.check_model(proto)
    assert {entry.domain: entry.version for entry in proto.opset_import}["anyflow"] == 1
    nodes = [node for node in proto.graph.node if node.domain == "anyflow"]
    names = ["QkNormRope", "Attention", "QueryNorm", "Attention", "Join", "JoinNorm", "AdaptiveNorm", "FlowMapUpdate"]
    assert [node.op_type for node in nodes] == names

    def attributes(node: onnx.NodeProto) -> dict[str, Any]:
        return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}

    rope, own, _, cross, plain, joined, norm, update = nodes
    assert attributes(rope) == {"heads": HEADS, "pairs": b"halves", "eps": pytest.approx(1e-6)}
    assert (len(rope.input), len(rope.output)) == (5, 2)
    assert (len(own.input), attributes(own), len(cross.input)) == (3, {}, 4)
    assert attributes(cross) == {"scale": 0.25}
    assert (len(plain.input), attributes(plain)) == (2, {"gate_row": 0})
    assert [bool(name) for name in joined.input] == [True] * 4 + [False] * 2 + [True] * 2
    assert {"shift": 3, "scale": 4}.items() <= attributes(norm).items()
    assert (len(update.input), attributes(update)) == (3, {})


@pytest.mark.parametrize("name", ["triton", "sdpa"])
@pytest.mark.parametrize("biased", [False, True])
def test_attention_by_name(name: str, biased: bool, memory: Memory) -> None:
    query, key, value = (memory.tensor(tensors(2, 2, n, 16, seed=n)) for n in (7, 9, 9))
    bias = memory.tensor(tensors(2, 9, seed=3)) if biased else None
    found = attention_by_name(name)(query, key, value, bias)
    assert_close(found, attention_reference(query, key, value, bias))


@pytest.mark.parametrize("biased", [False, True])
def test_attention_with_8_bit_scores_by_name(biased: bool, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 bits where there is no bias, within their stated error; the exact kernel where there is one."""
    query, key, value = (memory.tensor(tensors(2, 2, n, 32, seed=n)) for n in (7, 9, 9))
    bias = memory.tensor(tensors(2, 9, seed=3)) if biased else None
    found, expected = (
        attention_by_name("triton-int8")(query, key, value, bias),
        attention_reference(query, key, value, bias),
    )
    error = float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())
    assert error < 1e-5 if biased else 1e-4 < error < INT8_ERROR


def test_attention_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(IMPLEMENTATIONS) == ["triton", "triton-int8", "sdpa", "flash-attn"]
    with pytest.raises(UsageError, match="unknown attention implementation 'xformers'; there are triton, triton-i"):
        attention_by_name("xformers")
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(MissingPackageError, match="pip install flash-attn"):
        attention_by_name("flash-attn")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("flow_map_update", {0: lambda x: x.double()}, "tokens is float64; accepted: float32, bfloat16, float16"),
        ("flow_map_update", {2: lambda x: x[:, :1].contiguous()}, r"interval has shape \(1, 1\); accepted: \(1, 2\)"),
        ("flow_map_update", {1: lambda x: x.mT.contiguous().mT}, r"state has strides .*pass state\.contiguous\(\)"),
        ("adaptive_norm", {2: lambda x: None}, "modulation is given and table is None"),
        ("adaptive_norm", {1: lambda x: None, 2: lambda x: None}, "of the norm nothing is given; accepted: modulation"),
        ("join_norm", {1: lambda x: x[:, :1].contiguous()}, r"branch has shape .*; accepted: \(1, 2, 3, 16\)"),
        ("query_norm", {2: lambda x: 3}, "packed has 16 features, heads is 3"),
        ("qk_norm_rope", {6: lambda x: "thirds"}, "pairs is 'thirds'; accepted: 'interleaved', 'halves'"),
        ("attention", {1: lambda x: x.half()}, "key is float16; accepted: float32"),
        ("attention", {0: lambda x: x.new_zeros(1, 2, 3, 300)}, "query has head size 300; accepted: 1 to 256"),
    ],
)
def test_refusals_reach_the_caller(
    name: str, change: dict[int, Callable[[Any], Any]], message: str, memory: Memory
) -> None:
    arguments, named = samples(memory.tensor)[name][0]
    changed = [change[index](value) if index in change else value for index, value in enumerate(arguments)]
    with pytest.raises(EngineError, match=message):
        OPERATORS[name](*changed, **named)


@pytest.mark.parametrize(("name", "index"), CALLS)
def test_no_tensor_may_be_misaligned_or_of_a_strange_type(name: str, index: int, memory: Memory) -> None:
    """Whichever it is: the error comes before a launch, and says what is wrong with it."""
    arguments, named = samples(memory.tensor)[name][index]
    given = {**dict(enumerate(arguments)), **named}
    for place, value in given.items():
        if not isinstance(value, Tensor):
            continue
        bytes_off = value.element_size()
        shifted = value.new_zeros(value.numel() + 1)[1:].view(value.shape)
        changes = (
            (value.double(), "is float64; accepted: "),
            (shifted, f"begins {bytes_off} bytes past a multiple of"),
        )
        for change, message in changes:
            changed = {**given, place: change}
            with pytest.raises(EngineError, match=message):
                OPERATORS[name](
                    *(changed[number] for number in range(len(arguments))), **{key: changed[key] for key in named}
                )


@pytest.mark.skipif(not INTERPRETED, reason="tensors of two devices; under the interpreter there is one")
def test_a_tensor_without_storage_is_refused() -> None:
    from anyflow_rt.kernels.flow_map_update.triton import flow_map_update

    (tokens, state, interval), _ = samples(lambda tensor: tensor)["flow_map_update"][0]
    with pytest.raises(EngineError, match="interval is on meta; accepted: cpu"):
        flow_map_update(tokens, state, interval.to("meta"))
