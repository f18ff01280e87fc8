"""``bench kernels``' whole jump, all of it but its time: prepared, run through the engine, and checked."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from support.kernels import DEVICE

from anyflow_rt.benchmarks.kernels import jump
from anyflow_rt.benchmarks.kernels.jump import Jump, fitting_shape, memory_of, opened, prepared
from anyflow_rt.engines.checkpoint_shapes import network_tensors
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


def test_what_fits_is_taken() -> None:
    parameters = sum(
        math.prod(shape) for shape in network_tensors(jump.architecture_of(SMALL), "transformer").required.values()
    )
    assert 1.2e9 < parameters < 1.5e9
    assert 15e9 < memory_of(SMALL) < 24e9 and memory_of(LARGE) > 140e9
    assert fitting_shape(jump.SHAPES, 80 << 30) is SMALL
    assert fitting_shape(jump.SHAPES, 8 << 30) is SHIPPED
    assert fitting_shape(jump.SHAPES, 1 << 20) is None
