"""Bytes that kernels move: what ``work`` says of the source is what the interpreter sees, and how code is counted."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from support.kernels import DEVICE, tensors

from anyflow_rt.benchmarks.kernels.table import committed
from anyflow_rt.errors import EngineError
from anyflow_rt.kernels.adaptive_norm.triton import plan_adaptive_norm
from anyflow_rt.kernels.adaptive_norm.vectors import Affine, FrameVectors, Gate, Modulation
from anyflow_rt.kernels.attention.checks import Past
from anyflow_rt.kernels.attention.int8 import plan_attention_int8
from anyflow_rt.kernels.attention.triton import plan_attention
from anyflow_rt.kernels.flow_map_update.triton import plan_flow_map_update
from anyflow_rt.kernels.launch import Launch
from anyflow_rt.kernels.package import INTERPRETED
from anyflow_rt.kernels.qk_norm_rope.triton import plan_qk_norm_rope
from anyflow_rt.kernels.sass import parse_listing, times
from anyflow_rt.kernels.traffic import traffic_of, vector_share
from anyflow_rt.kernels.work import Stream, Work, work_of

TABLE = committed()


def made(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return tensors(*shape, dtype=dtype).to(DEVICE)


def vectors(rows: int, own: int) -> FrameVectors:
    return FrameVectors(made(2, 3, own, 24), made(rows, 24))


def launches() -> dict[str, Launch]:
    """No tensor serves twice, so that every access tells whose it is."""

    def x() -> torch.Tensor:
        return made(2, 3, 5, 24, dtype=torch.bfloat16)

    def tokens() -> torch.Tensor:
        return made(2, 3 * 2 * 6, 12, dtype=torch.bfloat16)

    state, interval, guidance = made(2, 3, 3, 4, 12), made(2, 3), {"unconditional": tokens(), "guidance_scale": made(2)}
    gains, angles = (made(48), made(48)), (made(5, 8), made(5, 8))
    query, key, value, bias = made(2, 3, 20, 40), made(2, 3, 37, 40), made(2, 3, 37, 40), made(2, 37)
    affine, modulation, head = (
        Affine(made(24), made(24)),
        Modulation(vectors(6, 6), 3, 4),
        Modulation(vectors(2, 1), 0, 1),
    )
    gate = Gate(vectors(6, 6), 5)
    counts = torch.tensor([21, 3], dtype=torch.int32, device=DEVICE)
    past = Past(made(2, 3, 21, 40), made(2, 3, 21, 40), counts)
    _, rounded, int8 = plan_attention_int8(made(2, 3, 20, 40), key, value, bias)
    for scales in ("query_scale", "key_scale"):
        int8.tensors[scales].fill_(1)
    return {
        "update": plan_flow_map_update(tokens(), state, interval, cast=torch.bfloat16),
        "guided": plan_flow_map_update(tokens(), state, interval, **guidance),
        "first": plan_adaptive_norm(x(), norm=modulation),
        "affine": plan_adaptive_norm(x(), x(), gate=gate, norm=affine),
        "modulated": plan_adaptive_norm(x(), x(), gate=gate, norm=modulation),
        "head": plan_adaptive_norm(x(), x(), gate=gate, norm=head),
        "halves": plan_qk_norm_rope(made(2, 5, 144), *gains, *angles, heads=3, pairs="halves"),
        "interleaved": plan_qk_norm_rope(made(2, 5, 144), *gains, *angles, heads=3, pairs="interleaved"),
        "query": plan_qk_norm_rope(made(2, 5, 48), gains[0], heads=3),
        "attention": plan_attention(query, key, value),
        "biased": plan_attention(query, key, value, bias),
        "rounded keys": rounded,
        "8-bit scores": int8,
        "causal": plan_attention(query, key, value, chunks=(20,)),
        "cached": plan_attention(query, key, value, past=past),
        "into a cache": plan_qk_norm_rope(
            made(2, 5, 144), *gains, *angles, heads=3, pairs="halves", cache=(made(2, 3, 9, 16), 3)
        ),
    }


@pytest.mark.skipif(not INTERPRETED, reason="looks into the interpreter")
@pytest.mark.parametrize("name", launches() if INTERPRETED else [])
def test_what_a_launch_asks_for_is_what_the_interpreter_sees(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime import interpreter

    launch = launches()[name]
    plain, seen = interpreter._interpreter, Counter[str]()
    spans = {
        key: (tensor.data_ptr(), tensor.data_ptr() + tensor.untyped_storage().nbytes())
        for key, tensor in launch.tensors.items()
    }

    def count(pointers: Any, mask: Any, size: int) -> None:
        active = np.asarray(pointers)[np.broadcast_to(np.asarray(mask, bool), np.shape(pointers))].ravel()
        for key, (begin, end) in spans.items():
            seen[key] += size * int(((active >= begin) & (active < end)).sum())

    class Counting:
        def __getattr__(self, attribute: str) -> object:
            return getattr(plain, attribute)

        def load(self, pointers: Any, mask: Any, other: Any, dtype: Any) -> Any:
            count(pointers, mask, np.dtype(dtype).itemsize)
            return plain.load(pointers, mask, other, dtype)

        def store(self, pointers: Any, value: Any, mask: Any) -> None:
            count(pointers, mask, value.dtype.itemsize)
            plain.store(pointers, value, mask)

    monkeypatch.setattr(interpreter, "_interpreter", Counting())
    launch.run()
    monkeypatch.setattr(interpreter, "_interpreter", plain)
    work = work_of(launch)
    assert {stream.name: stream.asked for stream in work.streams} == dict(seen)
    assert all(stream.once <= stream.asked for stream in work.streams)


LISTING = """
        /*0000*/                   LDG.E.128 R4, [R2.64] ;
.L_x_0:
        /*0010*/              @!P0 LDG.E.128 R8, [R2.64] ;
        /*0020*/                   STG.E.128 [R6.64], R8 ;
        /*0030*/               @P1 BRA `(.L_x_0) ;
        /*0040*/                   EXIT ;
.L_x_1:
        /*0050*/                   BRA `(.L_x_1);
        /*0060*/                   NOP;
"""


WAITING = """
        /*0000*/              @!P0 BRA `(.L_x_2) ;
.L_x_1:
        /*0010*/                   LDG.E.128 R8, [R2.64] ;
        /*0020*/                   BRA.U UP0, `(.L_x_1) ;
        /*0030*/               @P0 EXIT ;
        /*0040*/                   EXIT ;
.L_x_2:
        /*0050*/                   SYNCS R4 ;
        /*0060*/               @P0 BRA `(.L_x_2) ;
        /*0070*/                   BRA `(.L_x_1);
"""


def test_a_way_back_from_waiting_is_no_loop() -> None:
    listing = parse_listing(WAITING)
    assert listing.loops == (0x10, 0x50)
    assert [each.loops for each in listing.instructions] == [(), (0,), (0,), (), (), (1,), (1,), ()]


def test_loops_and_their_trips() -> None:
    listing = parse_listing(LISTING)
    assert [each.mnemonic for each in listing.instructions][:3] == ["LDG.E.128", "LDG.E.128", "STG.E.128"]
    assert listing.loops == (0x10,) and len(listing.instructions) == 6
    one_warp = 32 * 16
    streams = (Stream("x", 7, 10, 4 * one_warp + one_warp), Stream("y", 5, 6, 4 * one_warp, stored=True))
    traffic = traffic_of(listing, Work(streams, 1), warps=1)
    assert traffic.trips == (4,) and traffic.repeated == 1 and (traffic.once, traffic.moved) == (12, 16)
    assert [times(each, traffic.trips) for each in listing.instructions] == [1, 4, 4, 4, 1, 1]
    assert vector_share(listing.of("LDG", "STG"), traffic.trips) == 1

    twice = (Stream("x", 7, 10, 2 * one_warp + one_warp // 2), streams[1])
    assert traffic_of(listing, Work(twice, 1), warps=1).moved == pytest.approx(16 * 9 / 6.5)
    uneven = (Stream("y", 5, 6, 3 * one_warp // 2, stored=True),)
    with pytest.raises(EngineError, match="768 bytes are to be stored by a loop that stores 512 a trip"):
        traffic_of(listing, Work(uneven, 1), warps=1)
    with pytest.raises(EngineError, match="loads in 1 loops; its source has 2"):
        traffic_of(listing, Work((Stream("k", 1, 1, 1, inner=True),), 1, trips=(3, 1)), warps=1)


def test_the_fused_norm_moves_at_most_a_twentieth_more_than_it_must() -> None:
    """At the 1.3B and 14B shapes, on every target, counted in the machine code."""
    joins = {case: targets for case, targets in TABLE.items() if case.startswith("adaptive_norm")}
    assert len(joins) == 10
    for case, targets in joins.items():
        assert all(figures["moved_over_minimum"] <= 1.05 for figures in targets.values()), case


def test_elementwise_ops_move_16_bytes_a_thread_and_no_compiler_adds_to_that() -> None:
    for case, targets in TABLE.items():
        if case.startswith("attention"):
            continue
        scalars = 2 if re.search("guided", case) else 1 if case.startswith("flow_map_update") else 0
        for figures in targets.values():
            assert {size: n for size, n in figures["accesses"].items() if size not in ("16", "32")} == (
                {"4": scalars} if scalars else {}
            ), case
            assert figures["moved_over_source"] <= 1 and figures["moved_over_minimum"] < 1.07, case
