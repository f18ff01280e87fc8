"""The memory of finished chunks: what is compressed is kept once, wherever the rows that hold it move to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anyflow_rt.engines.architecture import (
    Architecture,
    CausalConfig,
    SchedulerConfig,
    TextEncoderConfig,
    TransformerConfig,
    VaeConfig,
)
from anyflow_rt.engines.chunks import make_layout
from anyflow_rt.engines.engine import TensorSpec
from anyflow_rt.engines.geometry import VideoSize, latent_size
from anyflow_rt.sampling.chunk_cache import ChunkCache, _lay_out
from anyflow_rt.sampling.executor import Sampling
from anyflow_rt.sampling.in_place_cache import InPlaceCache

LAYERS, HEADS, WIDTH = 2, 3, 12
ARCHITECTURE = Architecture(
    "AnyFlowFARPipeline",
    TransformerConfig(num_attention_heads=HEADS, attention_head_dim=WIDTH, num_layers=LAYERS, ffn_dim=8),
    VaeConfig(),
    TextEncoderConfig(1, 4096, 1, 1, 1, 1),
    SchedulerConfig(),
    CausalConfig((1, 2, 2, 2), 3, (1, 4, 4)),
)


OF_NUMPY, OF_TORCH = np.asarray, torch.from_numpy
"""Where an engine leaves what it writes: torch's tensors are a GPU's."""


@given(st.data())
def test_rows_move_in_place(data: st.DataObject) -> None:
    layers, rows, width = (data.draw(st.integers(1, most)) for most in (4, 3, 3))
    before, after = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 8))
    kept = data.draw(st.integers(0, min(before, after)))
    numbers = np.arange(layers * rows * max(before, after) * width)
    wanted = numbers[: layers * rows * before * width].reshape(layers, rows, before, width)[:, :, :kept].copy()
    buffer = data.draw(st.sampled_from((OF_NUMPY, OF_TORCH)))(numbers)
    _lay_out(buffer, (layers, 1, rows, after, width), before, kept)
    whole = np.asarray(buffer)[: layers * rows * after * width].reshape(layers, rows, after, width)
    assert np.array_equal(whole[:, :, :kept], wanted)


class _Engine:
    """Stands for every component: what it writes of a chunk are the number of the call, and how many came before."""

    def __init__(self, place: Any) -> None:
        self.inputs = {"cache_key": TensorSpec((), np.dtype(np.float32))}
        self.calls, self.embedded, self._place = 0, 0, place
        self.counts: list[list[int]] = []

    def infer(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        if "latents" in arrays:
            return {"tokens": arrays["latents"]}
        if "t" in arrays:
            self.embedded += 1
            return {"modulation": np.zeros((1, 1, 6, 1), np.float32)}
        self.calls += 1
        if "cache_counts" in arrays:
            self.counts.append(arrays["cache_counts"].tolist())
        shape = (LAYERS, 1, HEADS, len(arrays["rope_cos"]), WIDTH)
        key = self._place(np.full(shape, self.calls, np.float32))
        return {"next_cache_key": key, "next_cache_value": -key}


class _Components:
    def __init__(self, place: Any) -> None:
        self.engine = _Engine(place)

    def get(self, name: str) -> _Engine:
        return self.engine


class _Conditioning:
    def __init__(self) -> None:
        self.context_bias = np.zeros((1, 4), np.float32)


@pytest.mark.parametrize("place", [OF_NUMPY, OF_TORCH])
def test_what_is_compressed_is_kept_once(place: Any) -> None:
    """Five chunks of 1, 2, 2, 2, 2 latent frames of 4x4 tokens, compressed 2x2: what each attends to, what is kept."""
    size = latent_size(ARCHITECTURE, VideoSize(33, 64, 64))
    layout = make_layout(ARCHITECTURE, size)
    assert layout.partition == (1, 2, 2, 2, 2)
    components, sampling = _Components(place), Sampling(ARCHITECTURE, size, [_Conditioning()])  # type: ignore[list-item]
    cache = ChunkCache(components, sampling, layout)  # type: ignore[arg-type]
    latents = np.zeros((1, size.frames, size.channels, size.height, size.width), np.float32)
    # Calls of the writer: 1; 2; 3 compresses the first, 4 and 5 write the others anew; 6 the second, 7, 8.
    held = [[(1, 16)], [(1, 16), (2, 32)], [(3, 4), (4, 32), (5, 32)], [(3, 4), (6, 8), (7, 32), (8, 32)]]
    (nothing,) = cache.inputs()
    assert nothing["cache_key"].shape == (LAYERS, 1, HEADS, layout.padding(0), WIDTH) and not nothing["cache_key"].any()
    addresses = set()
    for wanted in held:
        cache.finish(latents)
        (found,) = cache.inputs()
        tokens = [number for number, count in wanted for _ in range(count)] + [0] * layout.padding(cache.finished)
        for port, sign in (("cache_key", 1), ("cache_value", -1)):
            assert found[port].shape == (LAYERS, 1, HEADS, len(tokens), WIDTH)
            assert type(found[port]) is type(place(np.zeros(1)))
            numbers = np.asarray(found[port])
            assert (numbers == sign * np.array(tokens, np.float32)[:, None]).all()
            addresses.add((port, numbers.ctypes.data))
        parts = cache._prompts[0].parts
        assert not any(part.far for part in parts) and len(parts) <= 2
    assert len(addresses) == 2, "a piece of memory for keys and one for values, which engines read where they are"
    assert components.engine.embedded == 2, "one clean modulation for each length of a chunk"


def test_in_place_each_is_written_behind_what_it_attends_to() -> None:
    """The same five chunks, and the same passes."""
    size = latent_size(ARCHITECTURE, VideoSize(33, 64, 64))
    layout = make_layout(ARCHITECTURE, size)
    components, sampling = _Components(OF_NUMPY), Sampling(ARCHITECTURE, size, [_Conditioning()])  # type: ignore[list-item]
    key, value = (np.empty(layout.cache_shape(sampling.videos, layout.most_seen)) for _ in range(2))
    cache = InPlaceCache(components, sampling, layout, [(key, value)])  # type: ignore[arg-type]
    latents = np.zeros((1, size.frames, size.channels, size.height, size.width), np.float32)
    attended = [0, 16, 48, 68, 76]
    for index, tokens in enumerate(attended):
        if index:
            cache.finish(latents)
        (found,) = cache.inputs()
        assert found["cache_key"] is key and found["cache_value"] is value
        assert found["cache_counts"].tolist() == [tokens, layout.padding(index)]
    assert [start for start, _ in components.engine.counts] == [0, 16, 0, 4, 36, 4, 12, 44]
    assert key.shape[3] == max(attended)
    assert components.engine.embedded == 2, "one clean modulation for each length of a chunk"
