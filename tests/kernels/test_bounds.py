"""No access outside an element of a tensor, and no index that wraps: the guards catch what they are there for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.kernels import KERNEL, Memory, checked_accesses, element_addresses, tensors

from anyflow_rt.errors import EngineError
from anyflow_rt.kernels.adaptive_norm.triton import plan_adaptive_norm
from anyflow_rt.kernels.adaptive_norm.vectors import Affine
from anyflow_rt.kernels.aot import CompiledKernel, _signature
from anyflow_rt.kernels.attention.checks import Past
from anyflow_rt.kernels.attention.quantise import plan_quantise
from anyflow_rt.kernels.attention.triton import plan_attention
from anyflow_rt.kernels.checks import LARGEST_INDEX, check_index
from anyflow_rt.kernels.entry import Parameter
from anyflow_rt.kernels.flow_map_update.triton import plan_flow_map_update
from anyflow_rt.kernels.launch import Kernel, Launch, check_grid
from anyflow_rt.kernels.package import INTERPRETED, tl, triton
from anyflow_rt.kernels.packed import entry_arguments
from anyflow_rt.kernels.qk_norm_rope.triton import plan_qk_norm_rope
from anyflow_rt.kernels.video_shapes import described


def _stray_kernel(source, target, OFFSET: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    tl.store(target + place, tl.load(source + place * STRIDE + OFFSET))


def stray_kernel() -> Kernel:
    """Interpreted whenever it is made: this file is read when kernels are compiled."""
    from triton.runtime.interpreter import InterpretedFunction

    return Kernel("flow_map_update", InterpretedFunction(_stray_kernel), ("programs",))


def stray(source: torch.Tensor, target: torch.Tensor, offset: int, stride: int) -> Launch:
    """Copies four elements of ``source``, ``stride`` apart, from ``offset`` on."""
    constants = {"OFFSET": offset, "STRIDE": stride, "BLOCK": 4}
    return Launch(stray_kernel(), {"source": source, "target": target}, constants, extents={"programs": 1}, warps=1)


@pytest.mark.skipif(not INTERPRETED, reason="looks into the interpreter")
@pytest.mark.parametrize(("offset", "stride", "fits"), [(0, 3, True), (0, 2, False), (1, 3, False), (-3, 3, False)])
def test_reads_of_a_strided_tensors_neighbours_are_found(memory: Memory, offset: int, stride: int, fits: bool) -> None:
    """A third of a packed row is one operand; its neighbours are in the same storage, and no business of a kernel."""
    packed = memory.tensor(tensors(12))
    source, target = packed[::3], memory.allocate((4,), torch.float32, packed.device)
    assert len(element_addresses(source)) == 4
    launch = stray(source, target, offset, stride)
    if fits:
        launch.run()
        assert torch.equal(target, source)
        return
    with pytest.raises((AssertionError, triton.TritonError)) as raised:
        launch.run()
    causes = [raised.value, raised.value.__cause__, raised.value.__context__]
    assert any("accesses that are of no tensor's element" in str(cause) for cause in causes)


@pytest.mark.skipif(not INTERPRETED, reason="looks into the interpreter")
def test_an_access_across_two_elements_is_found(memory: Memory) -> None:
    values = memory.tensor(tensors(8, dtype=torch.bfloat16))
    wide = values.view(torch.float32)
    with checked_accesses([values]), pytest.raises((AssertionError, triton.TritonError)):
        stray(wide, wide, 0, 1).run()


HALF = LARGEST_INDEX // 2 + 1
"""2^30."""


def test_what_a_kernel_counts_to() -> None:
    check_index("length", 2**31 - 1)
    with pytest.raises(EngineError, match="length is 2147483648; accepted: at most 2147483647, what kernels count to"):
        check_index("length", 2**31)
    check_grid("attention", (2**31 - 1, 65535))
    with pytest.raises(EngineError, match=r"attention would be launched as \(1, 65536\) programs; accepted: at most"):
        check_grid("attention", (1, 65536))


def test_sizes_at_the_border_of_32_bits_are_planned_or_refused() -> None:
    """Tensors without storage: nothing is allocated."""
    long = described(1, 1, 2**31 - 256, 16, dtype=torch.bfloat16)
    plan_attention(long, long[:, :, :64], long[:, :, :64], target=89)
    longer = described(1, 1, 2**31 - 64, 16, dtype=torch.bfloat16)
    for given in ((longer, long, long), (long[:, :, :64], longer, longer)):
        with pytest.raises(EngineError, match=r"the length of (query|key), padded to a block, is 214748\d+; accepted"):
            plan_attention(*given, target=89)
    with pytest.raises(EngineError, match="the length of queries or keys, padded to a block, is 2147483648"):
        plan_quantise(longer, None, 64, shared=False, target=89)

    def rows(stride: int) -> torch.Tensor:
        return torch.empty(0, dtype=torch.bfloat16, device="meta").as_strided((1, 1, 4, 16), (0, 0, stride, 1))

    small = described(1, 1, 4, 16, dtype=torch.bfloat16)
    plan_attention(rows(2**24 - 8), small, small, target=89)
    with pytest.raises(EngineError, match="query's row stride 16777216 times a block of 128 rows is 2147483648"):
        plan_attention(rows(2**24), small, small, target=89)

    def past(capacity: int) -> Past:
        cache = described(1, 1, capacity, 16, dtype=torch.bfloat16)
        return Past(cache, cache, described(2, dtype=torch.int32))

    plan_attention(small, small, small, past=past(2**31 - 128), target=89)
    with pytest.raises(EngineError, match=r"the capacity of past\.key, padded to a block, is 2147483652; accepted: at"):
        plan_attention(small, small, small, past=past(2**31 - 60), target=89)

    affine = Affine(described(8), described(8))
    plan_adaptive_norm(described(1, 1, 2**31 - 256, 8), norm=affine, target=89)
    with pytest.raises(EngineError, match="the number of tokens of a frame of residual, padded to a block, is 2147"):
        plan_adaptive_norm(described(1, 1, 2**31 - 16, 8), norm=affine, target=89)
    with pytest.raises(EngineError, match="the width of state, padded to a block, is 214748"):
        plan_flow_map_update(described(1, HALF - 2, 4), described(1, 1, 1, 2, 2**31 - 4), described(1, 1), target=89)


def test_strides_past_32_bits_are_passed_in_64() -> None:
    """Batches and heads that lie that far apart: the kernel's offsets are of 64 bits, and so is the argument."""
    near, far = (
        torch.empty(0, dtype=torch.bfloat16, device="meta").as_strided((2, 1, 4, 16), (stride, 64, 16, 1))
        for stride in (8 * (2**31 - 1), 8 * 2**31)
    )
    small = described(2, 1, 4, 16, dtype=torch.bfloat16)
    for query, kind in ((near, "i32"), (far, "i64")):
        launch = plan_attention(query, small, small, target=89)
        types, _ = _signature(launch)
        assert types["query_batch"] == kind and types["query_row"] == "i32"
        (value, *_) = entry_arguments(_kernel(kind), launch.arguments)
        assert value.value == query.stride(0) // 8
    with pytest.raises(EngineError, match="query_batch is 2147483648; accepted: at most 2147483647"):
        entry_arguments(_kernel("i32"), plan_attention(far, small, small, target=89).arguments)
    long = described(1, 2**31, 3 * 8, dtype=torch.bfloat16)
    angles = described(2**31, 2)
    launch = plan_qk_norm_rope(long, described(8), described(8), angles, angles, heads=2, target=89)
    assert _signature(launch)[0]["length"] == "i64" and launch.grid == (2**27, 1)


def _kernel(kind: str) -> CompiledKernel:
    return replace(KERNEL, parameters=(Parameter("query_batch", kind),))


@pytest.mark.skipif(not INTERPRETED, reason="looks into the interpreter")
def test_heads_that_are_2_to_the_31_elements_apart_are_stored_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """One program of a video of 2^28 tokens; where it would store is noted, and nothing is read or written."""
    from triton.runtime import interpreter

    heads, head_dim, length = 2, 8, 2**28
    launch = plan_qk_norm_rope(torch.zeros(1, 4, heads * head_dim), torch.ones(heads * head_dim), heads=heads)
    plain, stored = interpreter._interpreter, set[int]()

    class Noting:
        def __getattr__(self, name: str) -> object:
            return getattr(plain, name)

        def load(self, pointers: Any, mask: Any, other: Any, dtype: Any) -> Any:
            return np.zeros(np.shape(pointers), dtype)

        def store(self, pointers: Any, value: Any, mask: Any) -> None:
            wanted = np.broadcast_to(np.asarray(mask, bool), np.shape(pointers))
            stored.update(np.asarray(pointers)[wanted].ravel().astype(np.int64).tolist())

    monkeypatch.setattr(interpreter, "_interpreter", Noting())
    tensors_and_length = {**launch.arguments, "length": length}
    launch.kernel.function[(1, 1)](**tensors_and_length, **launch.constants)
    monkeypatch.setattr(interpreter, "_interpreter", plain)
    tokens, start = launch.constants["TOKENS"], launch.tensors["query"].data_ptr()
    assert isinstance(tokens, int)
    assert stored == {
        start + 4 * ((head * length + token) * head_dim + feature)
        for head in range(heads)
        for token in range(tokens)
        for feature in range(head_dim)
    }
