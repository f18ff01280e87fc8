"""Causal checkpoints: our chunks against diffusers' ``AnyFlowFARPipeline``, and the rules that chunks follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.causal import CAUSAL_CONFIGURATIONS, CausalCheckpoint

from anyflow_rt.engines.architecture import CausalConfig
from anyflow_rt.engines.chunks import ChunkLayout, partition
from anyflow_rt.errors import UsageError
from anyflow_rt.parity import LATENT_BOUND

RELEASED = CausalConfig()


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.fixture(scope="module")
def released_rule(tmp_path_factory: pytest.TempPathFactory) -> CausalCheckpoint:
    return CausalCheckpoint.make("released_rule", tmp_path_factory.mktemp("causal"))


@pytest.mark.parametrize("name", CAUSAL_CONFIGURATIONS)
def test_chunks_equal_diffusers(name: str, tmp_path: Path) -> None:
    """Text, image and video to video at 1, 2 and 4 steps; what the incremental cache leaves out changes nothing."""
    made = CausalCheckpoint.make(name, tmp_path)
    first, second, *_ = made.checkpoint.architecture.causal.chunk_partition
    for given in (0, 1, first + second):
        for steps in (1, 2, 4):
            wanted = made.wanted(steps, given)
            found = made.latents(steps, given)
            assert distance(found, wanted) <= LATENT_BOUND, (given, steps)
            if given:
                assert np.array_equal(found[:, :given], made.context(given)), "what is given stays as it is"
            whole = made.latents(steps, given, incremental=False)
            assert distance(whole, wanted) <= LATENT_BOUND, (given, steps)
            assert distance(found, whole) <= 1e-6, (given, steps)


@pytest.mark.parametrize("options", [{"guidance_scale": 3.0}, {"mean_velocity": False}], ids=str)
def test_options_equal_diffusers(released_rule: CausalCheckpoint, options: dict) -> None:
    assert distance(released_rule.latents(2, 1, **options), released_rule.wanted(2, 1, **options)) <= LATENT_BOUND


@pytest.mark.parametrize(("frames", "given"), [(5, 0), (12, 0), (9, 2), (11, 6)])
def test_other_lengths_equal_diffusers(released_rule: CausalCheckpoint, frames: int, given: int) -> None:
    found, wanted = released_rule.latents(1, given, frames), released_rule.wanted(1, given, frames)
    assert distance(found, wanted) <= LATENT_BOUND


def test_the_zero_keys_are_part_of_the_model(released_rule: CausalCheckpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them, parity is gone: so the tests above would notice."""
    wanted = released_rule.wanted(1)
    monkeypatch.setattr(ChunkLayout, "padding", lambda self, index: 0)
    assert distance(released_rule.latents(1), wanted) > 100 * LATENT_BOUND


def test_chunks_are_made_when_they_are_asked_for(released_rule: CausalCheckpoint) -> None:
    """So a chunk that was taken is final, whatever comes after it."""
    whole = released_rule.latents(1)
    chunks = released_rule.chunks(1)
    start = 0
    for index, frames in enumerate((1, 3, 3, 2)):
        chunk = next(chunks)
        assert (chunk.index, chunk.latents.shape[1]) == (index, frames)
        assert np.array_equal(chunk.latents, whole[:, start : start + frames])
        start += frames
    assert next(chunks, None) is None


def test_partitions() -> None:
    assert partition(RELEASED, 21) == (1, 3, 3, 3, 3, 3, 3, 2), "the checkpoint's own"
    assert partition(RELEASED, 1) == (1,)
    assert partition(RELEASED, 3) == (1, 2)
    assert partition(RELEASED, 81) == (1, *(3,) * 26, 2)
    assert partition(CausalConfig(chunk_partition=(4,)), 9) == (4, 4, 1)
    assert partition(CausalConfig(chunk_partition=(2, 1, 3)), 6) == (2, 1, 3)
    assert partition(CausalConfig(chunk_partition=(2, 1, 3)), 7) == (2, 3, 2)


@pytest.mark.parametrize("frames", range(1, 24))
def test_a_context_ends_with_a_chunk(frames: int) -> None:
    for context in range(frames):
        found = partition(RELEASED, frames, context)
        assert sum(found) == frames
        assert context in np.cumsum((0, *found))
        assert min(found) >= 1 and max(found) <= 3


def test_too_small_for_a_compressed_patch(released_rule: CausalCheckpoint) -> None:
    small = CausalCheckpoint(released_rule.path, 16, 32)
    assert len(small.layout(5, 0)) == 3, "nothing is compressed yet"
    with pytest.raises(UsageError, match=r"height 16 is less than one compressed patch .* 32 pixels"):
        small.layout(9, 0)


def test_what_the_incremental_cache_computes(released_rule: CausalCheckpoint) -> None:
    """At eight chunks of the released rule: 17 passes in place of 28, each at its own resolution."""
    layout = released_rule.layout(21, 0)
    assert layout.partition == RELEASED.chunk_partition
    assert [layout.compressed(finished) for finished in range(8)] == [0, 0, 0, 1, 2, 3, 4, 5]
    passes = [list(layout.to_write(finished)) for finished in range(1, 8)]
    assert passes == [[0], [1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6]]
    assert [len(layout.to_write(finished, incremental=False)) for finished in range(1, 8)] == [1, 2, 3, 4, 5, 6, 7]
