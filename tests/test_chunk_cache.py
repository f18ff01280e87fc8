"""The memory of finished chunks: what is compressed is kept once, wherever the rows that hold it move to."""

from __future__ import annotations

import numpy as np
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

LAYERS, HEADS, WIDTH = 2, 3, 12
ARCHITECTURE = Architecture(
    "AnyFlowFARPipeline",
    TransformerConfig(num_attention_heads=HEADS, attention_head_dim=WIDTH, num_layers=LAYERS, ffn_dim=8),
    VaeConfig(),
    TextEncoderConfig(1, 4096, 1, 1, 1, 1),
    SchedulerConfig(),
    CausalConfig((1, 2, 2, 2), 3, (1, 4, 4)),
)


@given(st.data())
def test_rows_move_in_place(data: st.DataObject) -> None:
    rows, width = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    before, after = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 8))
    kept = data.draw(st.integers(0, min(before, after)))
    buffer = np.arange(rows * max(before, after) * width)
    wanted = buffer[: rows * before * width].reshape(rows, before, width)[:, :kept].copy()
    _lay_out(buffer, rows, before, after, kept, width)
    assert np.array_equal(buffer[: rows * after * width].reshape(rows, after, width)[:, :kept], wanted)


class _Engine:
    """Stands for every component: what it writes of a chunk are the number of the call, and how many came before."""

    def __init__(self) -> None:
        self.inputs = {"cache_key": TensorSpec((), np.dtype(np.float32))}
        self.calls = 0

    def infer(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        if "latents" in arrays:
            return {"tokens": arrays["latents"]}
        if "t" in arrays:
            return {"modulation": np.zeros((1, 1, 6, 1), np.float32)}
        self.calls += 1
        shape = (LAYERS, 1, HEADS, len(arrays["rope_cos"]), WIDTH)
        key = np.full(shape, self.calls, np.float32)
        return {"next_cache_key": key, "next_cache_value": -key}


class _Components:
    def __init__(self) -> None:
        self.engine = _Engine()

    def get(self, name: str) -> _Engine:
        return self.engine


class _Conditioning:
    def __init__(self) -> None:
        self.context_bias = np.zeros((1, 4), np.float32)


def test_what_is_compressed_is_kept_once() -> None:
    """Five chunks of 1, 2, 2, 2, 2 latent frames of 4x4 tokens, compressed 2x2: what each attends to, what is kept."""
    size = latent_size(ARCHITECTURE, VideoSize(33, 64, 64))
    layout = make_layout(ARCHITECTURE, size)
    assert layout.partition == (1, 2, 2, 2, 2)
    components, sampling = _Components(), Sampling(ARCHITECTURE, size, [_Conditioning()])  # type: ignore[list-item]
    cache = ChunkCache(components, sampling, layout)  # type: ignore[arg-type]
    latents = np.zeros((1, size.frames, size.channels, size.height, size.width), np.float32)
    # Calls of the writer: 1; 2; 3 compresses the first, 4 and 5 write the others anew; 6 the second, 7, 8.
    held = [[(1, 16)], [(1, 16), (2, 32)], [(3, 4), (4, 32), (5, 32)], [(3, 4), (6, 8), (7, 32), (8, 32)]]
    for wanted in held:
        cache.finish(latents)
        (found,) = cache.inputs()
        tokens = [number for number, count in wanted for _ in range(count)] + [0] * layout.padding(cache.finished)
        for port, sign in (("cache_key", 1), ("cache_value", -1)):
            assert found[port].shape == (LAYERS, 1, HEADS, len(tokens), WIDTH)
            assert (found[port] == sign * np.array(tokens, np.float32)[:, None]).all()
        parts = cache._prompts[0].parts
        assert not any(part.far for part in parts) and len(parts) <= 2
