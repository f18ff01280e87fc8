"""``bench kernels``' whole jump, all of it but its time: prepared, run through the engine, and checked."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from support.kernels import DEVICE

from anyflow_rt.benchmarks.kernels.jump import (
    Jump,
    RandomWeights,
    architecture_of,
    disk_of,
    memory_of,
    opened,
    prepared,
    weights_of,
    why_not,
)
from anyflow_rt.errors import ParityError
from anyflow_rt.kernels.launch import target_of
from anyflow_rt.kernels.video_shapes import LARGE, SHIPPED, SMALL, VideoShape

TINY = VideoShape("tiny", heads=1, head_dim=16, ffn=24, layers=2, frames=2, rows=1, columns=2, text=3 + 2)


@pytest.fixture(scope="module")
def tiny() -> Iterator[Jump]:
    device = torch.device(DEVICE)
    with prepared(TINY, device, target_of(torch.empty(0, device=device))) as made:
        yield made


def test_a_jump_of_random_weights_passes_its_check(tiny: Jump) -> None:
    with opened(tiny) as engine:
        assert list(engine.inputs) == list(tiny.arrays)
        z_r = engine.infer(**tiny.arrays)["z_r"]
        again = engine.infer(**tiny.on_device(DEVICE))["z_r"]
    np.testing.assert_array_equal(z_r, again)
    found = tiny.parity(z_r)
    assert 0 < tiny.plain_error < 2e-2, "bf16 is off by something, and not by much"
    assert found.holds and found.error > 0
    moved = tiny.answer - torch.from_numpy(tiny.arrays["latents"])
    assert 0.01 < float(moved.std()) < 10, "weights of a size that keeps the size of what goes through them"


def test_a_wrong_jump_has_no_times(tiny: Jump) -> None:
    answer = tiny.answer.numpy().copy()
    assert tiny.parity(answer).error == 0
    for wrong in (tiny.arrays["latents"], 1.1 * answer, np.full_like(answer, np.nan)):
        assert not tiny.parity(wrong).holds
        with pytest.raises(ParityError, match="no times"):
            tiny.parity(wrong).require("whole jump")


def test_what_does_not_fit_is_named() -> None:
    assert 1.2e9 < sum(weights_of(SMALL)) < 1.5e9 and 13e9 < sum(weights_of(LARGE)) < 15e9
    assert 10e9 < memory_of(SMALL) < 14e9 and 65e9 < memory_of(LARGE) < 80e9, "as docs/performance.md says"
    assert disk_of(LARGE) == 2 * sum(weights_of(LARGE))
    assert why_not(SMALL, 16 << 30, 4 << 30) is None and why_not(SHIPPED, 1 << 30, 1 << 30) is None
    said = why_not(LARGE, 24 << 30, 64 << 30)
    assert said is not None and said.endswith("GB of the GPU's memory and 25.8 GB are free")
    said = why_not(LARGE, 80 << 30, 16 << 30)
    assert said is not None and said.endswith("GB of disk and 17.2 GB are free")


def test_random_weights_are_the_same_every_time() -> None:
    weights = RandomWeights(architecture_of(TINY), torch.device("cpu"))
    assert len(weights) == len(list(weights)) > 10
    for name in weights:
        assert torch.equal(weights[name], weights[name])
    matrices = [weights[f"blocks.{block}.attn1.to_q.weight"] for block in (0, 1)]
    assert not torch.equal(*matrices), "each its own"
