"""Attention equals its reference at lengths that are multiples of nothing, with biases, and from chunk to chunk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.kernels import DEVICE, Memory, assert_close, tensors
from torch import Tensor

from anyflow_rt.benchmarks.kernels.tune import fastest, measured_before, write_measured
from anyflow_rt.errors import EngineError, UsageError
from anyflow_rt.kernels.attention import config
from anyflow_rt.kernels.attention.blocks import block_table, chunk_blocks
from anyflow_rt.kernels.attention.checks import Past
from anyflow_rt.kernels.attention.config import MINIMUM_INT8_DOT, TABLE, AttentionConfig, configuration, split_head
from anyflow_rt.kernels.attention.reference import attention_reference
from anyflow_rt.kernels.attention.triton import attention
from anyflow_rt.kernels.package import triton

CASES = [
    ((1, 1, 1, 1, 16), torch.float32),
    ((2, 2, 17, 33, 32), torch.float32),
    ((1, 2, 32, 16, 64), torch.bfloat16),
    ((1, 1, 5, 40, 80), torch.float16),
    ((1, 1, 19, 7, 96), torch.bfloat16),
    ((1, 1, 18, 18, 128), torch.float16),
    ((1, 2, 3, 9, 20), torch.float16),
    ((1, 1, 3, 5, 7), torch.float32),
]
"""(B, heads, Lq, Lk, d), dtype."""


def inputs(
    memory: Memory, shape: tuple[int, int, int, int, int], dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    batch, heads, query_length, key_length, head_dim = shape
    lengths = (query_length, key_length, key_length)
    query, key, value = (
        memory.tensor(tensors(batch, heads, length, head_dim, dtype=dtype, seed=seed + number))
        for number, length in enumerate(lengths)
    )
    return query, key, value


@pytest.mark.parametrize(("shape", "dtype"), CASES)
def test_equals_the_reference(memory: Memory, shape: tuple[int, int, int, int, int], dtype: torch.dtype) -> None:
    query, key, value = inputs(memory, shape, dtype)
    output = attention(query, key, value)
    assert output.dtype == dtype and output.is_contiguous()
    assert_close(output, attention_reference(query, key, value))


@pytest.mark.parametrize(("shape", "dtype"), CASES[1:5])
def test_a_bias_per_key(memory: Memory, shape: tuple[int, int, int, int, int], dtype: torch.dtype) -> None:
    query, key, value = inputs(memory, shape, dtype)
    bias = memory.tensor(tensors(shape[0], shape[3], seed=9))
    bias[:, 0] = 6.2
    assert_close(attention(query, key, value, bias), attention_reference(query, key, value, bias))


def test_a_key_with_a_bias_weighs_as_many_copies_of_it(memory: Memory) -> None:
    """log(n) on one key is that key n times: what collapses the prompt's padding."""
    query, key, value = inputs(memory, (1, 2, 5, 4, 16), torch.float32)
    bias = torch.tensor([[0, 0, 0, 300.0]], device=DEVICE)
    bias[0, 3] = torch.log(bias[0, 3])
    repeated = [torch.cat([x, x[:, :, 3:].expand(-1, -1, 299, -1)], dim=2).contiguous() for x in (key, value)]
    assert_close(attention(query, key, value, memory.tensor(bias)), attention_reference(query, *repeated))


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("lowest", [-1e4, -3e38, -torch.inf])
def test_keys_that_are_biased_away_do_not_count(memory: Memory, lowest: float) -> None:
    """A whole block of them first, so that the running maximum starts with nothing."""
    query, key, value = inputs(memory, (1, 1, 4, 20, 16), torch.float32)
    bias = torch.zeros(1, 20, device=DEVICE)
    bias[:, :17] = lowest
    expected = attention_reference(query, key[:, :, 17:], value[:, :, 17:])
    assert_close(attention(query, key, value, memory.tensor(bias)), expected)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("lowest", [-1e31, -3e38, -torch.inf])
def test_where_no_key_counts_the_output_is_zero(memory: Memory, lowest: float) -> None:
    query, key, value = inputs(memory, (2, 1, 4, 20, 16), torch.float32)
    bias = torch.zeros(2, 20, device=DEVICE)
    bias[1] = lowest
    output = attention(query, key, value, memory.tensor(bias))
    assert_close(output[:1], attention_reference(query[:1], key[:1], value[:1]))
    assert not output[1].any()
    bias[1] = -1e29
    uniform = attention_reference(query, key, value, bias)
    assert_close(attention(query, key, value, memory.tensor(bias)), uniform)


def test_a_table_of_blocks_stays_where_it_is() -> None:
    """A CUDA graph reads the address it was captured with, however many other chunks came since."""
    device = torch.device(DEVICE)
    first = block_table((5, 7), 0, 16, device)
    for prefix in range(200):
        block_table((5, 7), 1 + prefix, 16, device)
    assert block_table((5, 7), 0, 16, device) is first


def test_rows_sum_to_one(memory: Memory) -> None:
    """Ones as values come out as ones, however large the scores."""
    query, key, value = inputs(memory, (1, 2, 21, 35, 16), torch.float32)
    assert_close(attention(query * 50, key * 50, torch.ones_like(value)), torch.ones(1, 21, 32))


def test_the_order_of_keys_does_not_matter(memory: Memory) -> None:
    query, key, value = inputs(memory, (1, 1, 5, 35, 16), torch.float32)
    order = torch.randperm(35, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    shuffled = attention(query, key[:, :, order].contiguous(), value[:, :, order].contiguous())
    assert_close(attention(query, key, value), shuffled)


def test_values_may_stay_in_the_packed_projection(memory: Memory) -> None:
    query, key, _ = inputs(memory, (2, 3, 6, 6, 8), torch.bfloat16)
    packed = memory.tensor(tensors(2, 6, 3 * 3 * 8, dtype=torch.bfloat16, seed=4))
    value = packed.unflatten(-1, (3, 3, 8))[:, :, 2].transpose(1, 2)
    assert_close(attention(query, key, value), attention_reference(query, key, value))


@pytest.mark.parametrize(("chunks", "prefix"), [((5,), 0), ((4, 4, 4), 0), ((1, 17, 3), 0), ((7, 2), 11), ((3, 18), 5)])
def test_causal_from_chunk_to_chunk(memory: Memory, chunks: tuple[int, ...], prefix: int) -> None:
    length = sum(chunks)
    query, key, value = inputs(memory, (1, 2, length, prefix + length, 16), torch.float32)
    expected = attention_reference(query, key, value, chunks=chunks)
    assert_close(attention(query, key, value, chunks=chunks), expected)


def test_later_chunks_change_nothing_before_them(memory: Memory) -> None:
    query, key, value = inputs(memory, (1, 1, 12, 12, 16), torch.float32)
    before = attention(query, key, value, chunks=(5, 7))
    key[:, :, 5:] = torch.nan
    value[:, :, 5:] = torch.nan
    after = attention(query, key, value, chunks=(5, 7))
    assert torch.equal(before[:, :5], after[:, :5])
    assert after[:, 5:].isnan().all()


def test_blocks_of_chunks_cover_every_query_once() -> None:
    blocks = chunk_blocks((1, 17, 3), prefix=4, block=16)
    assert sorted(blocks) == [(0, 1, 5), (1, 17, 22), (17, 18, 22), (18, 21, 25)]
    assert [end for *_, end in blocks] == [25, 22, 22, 5], "the longest first"


def test_a_scale_may_be_given(memory: Memory) -> None:
    query, key, value = inputs(memory, (1, 1, 3, 5, 16), torch.float32)
    assert_close(attention(query, key, value, scale=0.7), attention_reference(query, key, value, scale=0.7))


@pytest.mark.parametrize("shape", [(0, 2, 3, 3, 16), (1, 2, 0, 3, 16), (1, 2, 3, 0, 16)])
def test_empty(memory: Memory, shape: tuple[int, int, int, int, int]) -> None:
    output = attention(*inputs(memory, shape, torch.bfloat16))
    assert output.shape == (shape[0], shape[2], 32)
    assert bool((output == 0).all()), "without keys there is nothing to add up"


def test_heads_are_covered_by_powers_of_two() -> None:
    split = {size: split_head(size) for size in (1, 16, 20, 40, 48, 64, 80, 96, 112, 128, 160, 256)}
    int8 = {size: split_head(size, MINIMUM_INT8_DOT) for size in (32, 36, 40, 64, 72, 80, 96, 144, 160, 256)}
    assert int8 == {
        32: (32, 0),
        36: (64, 0),
        40: (64, 0),
        64: (64, 0),
        72: (64, 32),
        80: (64, 32),
        96: (64, 32),
        144: (128, 32),
        160: (128, 32),
        256: (256, 0),
    }
    assert split == {
        1: (16, 0),
        16: (16, 0),
        20: (32, 0),
        40: (32, 16),
        48: (32, 16),
        64: (64, 0),
        80: (64, 16),
        96: (64, 32),
        112: (128, 0),
        128: (128, 0),
        160: (128, 32),
        256: (256, 0),
    }


def test_what_was_measured_goes_before_the_heuristic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``bench kernels --tune`` picks the fastest that runs, and writes what ``configuration`` reads."""
    assert config.measured() == {}, "no GPU has measured one yet"
    options = config.candidates(89, 128)
    assert len(options) == len(set(options)) and config.configuration(89, 128, 2) in options
    assert max(each.queries + 2 * each.stages * each.keys for each in options) * 256 <= 99 * 1024
    best, slow = options[3], options[5]

    def seconds(each: AttentionConfig) -> float:
        if each == options[0]:
            raise triton.OutOfResources(1, 0, "shared memory")
        return 1e-3 if each == best else 2e-3

    said: list[str] = []
    assert fastest([options[0], slow, best, options[4]], seconds, said.append) == (best, 1e-3)
    assert said[0].endswith("OutOfResources") and said[2].endswith("1.0000 ms")
    with pytest.raises(EngineError, match="no configuration of attention runs on this GPU"):
        fastest(options[:1], seconds, said.append)

    path = tmp_path / config.MEASURED
    write_measured(path, 90, {64: slow})
    write_measured(path, 89, {128: best})
    monkeypatch.setattr(config, "__file__", str(tmp_path / "config.py"))
    config.measured.cache_clear()
    try:
        assert config.measured() == {89: {128: best}, 90: {64: slow}}
        assert config.configuration(89, 96, 2) == best and config.configuration(90, 64, 2) == slow
        assert config.configuration(86, 128, 2) == TABLE[86][128] and config.configuration(89, 64, 2) == TABLE[89][64]
        path.write_text('{"sm_89": 3}')
        config.measured.cache_clear()
        with pytest.raises(
            EngineError, match=r"measured\.json cannot be read .*; remove it, write it again with  bench"
        ):
            config.configuration(89, 128, 2)
    finally:
        config.measured.cache_clear()


@pytest.mark.parametrize(
    "text", ["[]", "{", "3", '{"sm_89": 3}', '{"sm_89": {"64": {"queries": 1}}}', '{"x": {}}', "\xff"]
)
def test_a_file_that_holds_no_measurements_is_refused_before_any_is_taken(text: str, tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(
        UsageError, match=r"--tune .*measured\.json cannot be read .*; give another file, or remove this"
    ):
        measured_before(path)
    with pytest.raises(UsageError, match="cannot be read"):
        write_measured(path, 89, {64: TABLE[89][64]})
    assert path.read_bytes() == text.encode("latin-1") and list(tmp_path.iterdir()) == [path], "as it was"


def test_a_place_where_no_measurements_can_be_written(tmp_path: Path) -> None:
    assert measured_before(tmp_path / "new.json") == {}
    with pytest.raises(UsageError, match=r"is a folder; give a file in it, as .*measured\.json"):
        measured_before(tmp_path)
    with pytest.raises(UsageError, match=r"there is no folder .*missing; make it, or give another file"):
        measured_before(tmp_path / "missing" / "measured.json")


def test_every_target_has_a_configuration_for_every_head() -> None:
    for target in (*TABLE, 75, 87, 121):
        for head_dim in (1, 64, 80, 128, 256):
            assert configuration(target, head_dim, 2).queries in (64, 128)


def refusals() -> dict[str, tuple[dict[str, object], str]]:
    def zeros(*shape: int) -> Tensor:
        return torch.zeros(*shape, device=DEVICE)

    good: dict[str, object] = {"query": zeros(2, 3, 4, 8), "key": zeros(2, 3, 6, 8), "value": zeros(2, 3, 6, 8)}
    return {
        "dtype": (good | {"query": zeros(2, 3, 4, 8).int()}, "query is int32; accepted: float32, bfloat16, float16"),
        "types": (good | {"key": zeros(2, 3, 6, 8).half()}, "key is float16; accepted: float32"),
        "heads": (good | {"key": zeros(2, 1, 6, 8)}, r"key has shape \(2, 1, 6, 8\); accepted: \(2, 3, Lk, 8\)"),
        "keys": (good | {"value": zeros(2, 3, 5, 8)}, r"value has shape \(2, 3, 5, 8\); accepted: \(2, 3, 6, 8\)"),
        "head size": (
            {name: zeros(1, 1, 2, 260) for name in ("query", "key", "value")},
            "query has head size 260; accepted: 1 to 256",
        ),
        "bias": (good | {"key_bias": zeros(2, 4)}, r"key_bias has shape \(2, 4\); accepted: \(2, 6\)"),
        "bias dtype": (good | {"key_bias": zeros(2, 6).bfloat16()}, "key_bias is bfloat16; accepted: float32"),
        "strides": (good | {"query": zeros(2, 3, 8, 4).mT}, "query has strides .*; accepted: 1 along its last axis"),
        "chunks": (good | {"chunks": (1, 2)}, r"chunks is \[1, 2\]; accepted: positive lengths whose sum is Lq, 4"),
        "one chunk": (good | {"chunks": 5}, "chunks is 5; accepted: a sequence of positive lengths whose sum is Lq"),
        "scale": (good | {"scale": float("nan")}, "scale is nan; accepted: a finite number"),
        "no scale": (good | {"scale": "x"}, "scale is 'x'; accepted: a finite number"),
        "no query": (good | {"query": None}, "query is a NoneType; a torch.Tensor is needed"),
        "no chunk": (good | {"chunks": (4, 0)}, "chunks is .*; accepted: positive lengths"),
        "prefix": (
            {"query": zeros(1, 1, 4, 8), "key": zeros(1, 1, 3, 8), "value": zeros(1, 1, 3, 8), "chunks": (4,)},
            "key has 3 keys for 4 queries in chunks",
        ),
    }


@pytest.mark.parametrize("name", refusals())
def test_refusals(name: str) -> None:
    arguments, message = refusals()[name]
    with pytest.raises(EngineError, match=message):
        attention(**arguments)


@pytest.mark.parametrize(
    ("tokens", "zeros", "capacity", "shape", "dtype"),
    [
        (0, 0, 8, (1, 2, 5, 5, 16), torch.float32),
        (0, 3, 8, (2, 1, 5, 5, 12), torch.float32),
        (16, 0, 24, (1, 2, 17, 17, 16), torch.bfloat16),
        (37, 91, 40, (2, 2, 18, 18, 24), torch.float32),
        (7, 122, 7, (1, 1, 6, 6, 80), torch.float16),
    ],
)
def test_over_a_cache(
    memory: Memory,
    tokens: int,
    zeros: int,
    capacity: int,
    shape: tuple[int, int, int, int, int],
    dtype: torch.dtype,
) -> None:
    """The first tokens of the cache and the zero keys, whatever is behind those; own values in the projection."""
    query, key, value = inputs(memory, shape, dtype)
    past_key, past_value = (
        memory.tensor(tensors(shape[0], shape[1], capacity, shape[4], dtype=dtype, seed=seed)) for seed in (5, 6)
    )
    for cache in (past_key, past_value):
        cache[:, :, tokens:] = torch.nan
    past = Past(past_key, past_value, torch.tensor([tokens, zeros], dtype=torch.int32, device=DEVICE))
    assert_close(attention(query, key, value, past=past), attention_reference(query, key, value, past=past))


def test_a_count_beyond_the_cache_reads_nothing_behind_it(memory: Memory) -> None:
    query, key, value = inputs(memory, (1, 1, 4, 4, 16), torch.float32)
    cache = [memory.tensor(tensors(1, 1, 5, 16, seed=seed)) for seed in (5, 6)]
    found, wanted = (
        attention(query, key, value, past=Past(*cache, torch.tensor([count, 0], dtype=torch.int32, device=DEVICE)))
        for count in (99, 5)
    )
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": torch.zeros(2, 3, 5, 4)}, r"past\.key has shape \(2, 3, 5, 4\); accepted: \(2, 3, capacity, 8\)"),
        ({"value": torch.zeros(2, 3, 6, 8)}, r"past\.value has shape \(2, 3, 6, 8\); accepted: \(2, 3, 5, 8\)"),
        ({"value": torch.zeros(2, 3, 5, 8).half()}, r"past\.value is float16; accepted: float32"),
        ({"key": torch.zeros(2, 5, 3, 8).transpose(1, 2)}, r"past\.key has strides .* a contiguous tensor is needed"),
        ({"counts": torch.zeros(2)}, r"past\.counts is float32; accepted: int32"),
        ({"counts": torch.zeros(3, dtype=torch.int32)}, r"past\.counts has shape \(3,\); accepted: \(2\)"),
    ],
)
def test_a_past_that_does_not_fit(change: dict[str, Tensor], message: str) -> None:
    query, cache = torch.zeros(2, 3, 4, 8, device=DEVICE), torch.zeros(2, 3, 5, 8, device=DEVICE)
    past = Past(cache, cache, torch.zeros(2, dtype=torch.int32, device=DEVICE))
    with pytest.raises(EngineError, match=message):
        attention(query, query, query, past=replace(past, **{name: value.to(DEVICE) for name, value in change.items()}))
