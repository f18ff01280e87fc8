"""The joins of a block equal their reference, in every combination of gate and norm."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.kernels import DEVICE, Memory, assert_close, tensors
from torch import Tensor

from anyflow_rt.errors import EngineError
from anyflow_rt.kernels.adaptive_norm.reference import adaptive_norm_reference
from anyflow_rt.kernels.adaptive_norm.triton import adaptive_norm
from anyflow_rt.kernels.adaptive_norm.vectors import Affine, FrameVectors, Gate, Modulation

CASES = [
    ((2, 2, 5, 24), torch.float32),
    ((1, 1, 1, 7), torch.float32),
    ((1, 2, 9, 160), torch.bfloat16),
    ((2, 1, 3, 8), torch.float16),
]
EPS = 1e-6
NORMS = ["modulated", "head", "affine", "none"]


def norm_of(memory: Memory, kind: str, shape: tuple[int, ...]) -> Modulation | Affine | None:
    batch, frames, _, width = shape

    def values(*sizes: int, seed: int) -> Tensor:
        return memory.tensor(tensors(*sizes, width, seed=seed, scale=0.3))

    if kind == "affine":
        return Affine(values(seed=1), values(seed=2))
    if kind == "modulated":
        return Modulation(FrameVectors(values(batch, frames, 6, seed=3), values(6, seed=4)), 3, 4)
    if kind == "head":
        return Modulation(FrameVectors(values(batch, frames, 1, seed=5), values(2, seed=6)), 0, 1)
    return None


def gate_of(memory: Memory, shape: tuple[int, ...]) -> Gate:
    batch, frames, _, width = shape
    vectors = FrameVectors(
        memory.tensor(tensors(batch, frames, 6, width, seed=7)), memory.tensor(tensors(6, width, seed=8))
    )
    return Gate(vectors, 5)


@pytest.mark.parametrize(("shape", "dtype"), CASES)
@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("gated", [True, False])
def test_equals_the_reference(
    memory: Memory, shape: tuple[int, ...], dtype: torch.dtype, kind: str, gated: bool
) -> None:
    residual = memory.tensor(tensors(*shape, dtype=dtype, seed=11) + 0.5)
    branch = memory.tensor(tensors(*shape, dtype=dtype, seed=12))
    gate, norm = gate_of(memory, shape) if gated else None, norm_of(memory, kind, shape)
    before = residual.clone()
    joined, normalised = adaptive_norm(residual, branch, gate=gate, norm=norm, eps=EPS)
    expected_joined, expected = adaptive_norm_reference(residual, branch, gate, norm, EPS)
    assert torch.equal(residual, before)
    assert joined.dtype == dtype
    assert_close(joined, expected_joined)
    assert (normalised is None) == (expected is None)
    if normalised is not None and expected is not None:
        assert normalised.dtype == dtype
        assert_close(normalised, expected, scale=4)


@pytest.mark.parametrize("kind", ["modulated", "affine"])
def test_without_a_branch_the_residual_is_not_copied(memory: Memory, kind: str) -> None:
    residual = memory.tensor(tensors(2, 2, 3, 16))
    norm = norm_of(memory, kind, residual.shape)
    joined, normalised = adaptive_norm(residual, norm=norm)
    _, expected = adaptive_norm_reference(residual, None, None, norm, EPS)
    assert joined is residual and normalised is not None and expected is not None
    assert_close(normalised, expected)


def test_a_float32_residual_carries_16_bit_branches(memory: Memory) -> None:
    residual = memory.tensor(tensors(1, 2, 3, 16))
    branch = memory.tensor(tensors(1, 2, 3, 16, dtype=torch.bfloat16, seed=2))
    joined, normalised = adaptive_norm(residual, branch, norm=norm_of(memory, "affine", residual.shape))
    assert joined.dtype == torch.float32 and normalised is not None and normalised.dtype == torch.bfloat16
    assert_close(joined, residual + branch.float())
    _, wide = adaptive_norm(residual, branch, norm=norm_of(memory, "affine", residual.shape), dtype=torch.float32)
    assert wide is not None and wide.dtype == torch.float32


def test_a_large_mean_does_not_hide_the_variance(memory: Memory) -> None:
    """Sums of squares less squared sums would lose all digits here."""
    residual = memory.tensor(tensors(1, 1, 4, 64) + 4096)
    plain = Affine(memory.tensor(torch.ones(64)), memory.tensor(torch.zeros(64)))
    _, normalised = adaptive_norm(residual, norm=plain)
    assert normalised is not None
    torch.testing.assert_close(normalised, F.layer_norm(residual.double(), (64,)).float(), rtol=2e-3, atol=2e-3)


def test_normalised_rows_have_mean_0_and_variance_1(memory: Memory) -> None:
    residual = memory.tensor(tensors(1, 2, 5, 48, scale=3))
    plain = Affine(memory.tensor(torch.ones(48)), memory.tensor(torch.zeros(48)))
    _, normalised = adaptive_norm(residual, norm=plain)
    assert normalised is not None
    assert_close(normalised.mean(-1), torch.zeros(1, 2, 5), scale=10)
    assert_close(normalised.var(-1, unbiased=False), torch.ones(1, 2, 5), scale=10)


@pytest.mark.parametrize("shape", [(0, 2, 3, 8), (2, 0, 3, 8), (2, 1, 0, 8)])
def test_empty(memory: Memory, shape: tuple[int, ...]) -> None:
    x = memory.tensor(tensors(*shape))
    joined, normalised = adaptive_norm(x, x, norm=norm_of(memory, "affine", shape))
    assert joined.shape == shape and normalised is not None and normalised.shape == shape


def refusals() -> dict[str, tuple[dict[str, object], str]]:
    def zeros(*shape: int) -> Tensor:
        return torch.zeros(*shape, device=DEVICE)

    x = zeros(2, 3, 4, 8)
    vectors = FrameVectors(zeros(2, 3, 6, 8), zeros(6, 8))
    frames = FrameVectors(zeros(2, 1, 6, 8), zeros(6, 8))
    good = {"residual": x, "branch": x, "norm": Affine(zeros(8), zeros(8))}
    return {
        "rank": (good | {"residual": zeros(2, 3, 8)}, r"residual has shape \(2, 3, 8\); accepted: \(B, F, N, D\)"),
        "dtype": (good | {"branch": x.long()}, "branch is int64; accepted: float32, bfloat16, float16"),
        "branch": (good | {"branch": zeros(2, 3, 5, 8)}, r"branch has shape .*; accepted: \(2, 3, 4, 8\)"),
        "width": ({"residual": zeros(1, 1, 1, 8200), "norm": good["norm"]}, "width 8200; accepted: 1 to 8192"),
        "gate": ({"residual": x, "gate": Gate(vectors, 2), "norm": good["norm"]}, "gate is given and branch is None"),
        "nothing": ({"residual": x}, "branch and norm are both None"),
        "row": (
            good | {"gate": Gate(vectors, 6)},
            "gate.row, a row of its table, is 6; accepted: whole numbers from 0 to 5",
        ),
        "half a row": (
            good | {"norm": Modulation(vectors, 0, 1.5)},
            "norm.scale, a row of its table, is 1.5; accepted",
        ),
        "shift": (good | {"norm": Modulation(vectors, "0", 1)}, "norm.shift, a row of its table, is '0'; accepted"),
        "no norm": (good | {"norm": (1, 2)}, r"norm is \(1, 2\); accepted: Modulation or Affine"),
        "no gate": (good | {"gate": (vectors, 2)}, "gate is .*; accepted: Gate"),
        "no vectors": (good | {"gate": Gate(None, 0)}, "gate.vectors is None; accepted: FrameVectors"),
        "eps": (good | {"eps": "a"}, "eps is 'a'; accepted: a finite number of at least 0"),
        "less": (good | {"eps": -1e-6}, "eps is -1e-06; accepted: a finite number of at least 0"),
        "frames": (
            good | {"norm": Modulation(frames, 0, 1)},
            r"norm.vectors.modulation has shape \(2, 1, 6, 8\); accepted: \(2, 3, 6, 8\)",
        ),
        "gain": (good | {"norm": Affine(zeros(9), zeros(8))}, r"norm.gain has shape \(9,\); accepted: \(8\)"),
        "strides": (good | {"branch": zeros(2, 3, 8, 4).mT}, r"branch has strides .*: pass branch.contiguous\(\)"),
        "output": (good | {"dtype": torch.int8}, "dtype is torch.int8; accepted"),
    }


@pytest.mark.parametrize("name", refusals())
def test_refusals(name: str) -> None:
    arguments, message = refusals()[name]
    with pytest.raises(EngineError, match=message):
        adaptive_norm(**arguments)
