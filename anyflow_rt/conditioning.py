"""Prompts -> what the denoiser reads of them: cross-attention keys, values and the biases of the padding's keys."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from anyflow_rt.components import Components
from anyflow_rt.engines import geometry
from anyflow_rt.prompt import TokenBatch
from anyflow_rt.prompt_cache import PromptCache


@dataclass(frozen=True)
class Conditioning:
    """Arrays as in the component table; the batch is already that of the videos."""

    cross_key: Any
    cross_value: Any
    context_bias: Any


@dataclass(frozen=True)
class ConditioningSeconds:
    """Where the time went. known: some prompts were in the cache, so that ``text`` says nothing of encoding."""

    text: float
    conditioner: float
    known: bool = False

    def __add__(self, other: ConditioningSeconds) -> ConditioningSeconds:
        text, conditioner = self.text + other.text, self.conditioner + other.conditioner
        return ConditioningSeconds(text, conditioner, self.known or other.known)


def condition(
    components: Components,
    tokens: TokenBatch,
    max_sequence_length: int,
    num_videos: int,
    cache: PromptCache | None = None,
) -> tuple[Conditioning, ConditioningSeconds]:
    """Encode each prompt once and repeat it for its videos, prompt-major. What ``cache`` has needs no encoder."""
    embeds, seconds = _encode(components, tokens, cache)
    conditioner = components.get("conditioner")
    start = time.perf_counter()
    batch, length = tokens.input_ids.shape
    bias = geometry.pad_bias(max_sequence_length, length, batch)
    out = conditioner.infer(prompt_embeds=embeds, pad_bias=bias)
    if num_videos > 1:
        # By index, which arrays of numpy and tensors of torch both understand.
        rows = np.repeat(np.arange(batch), num_videos)
        keys = {name: out[name][:, rows] for name in ("cross_key", "cross_value")}
        out = {**keys, "context_bias": out["context_bias"][rows]}
    return Conditioning(**out), replace(seconds, conditioner=time.perf_counter() - start)


def _encode(
    components: Components, tokens: TokenBatch, cache: PromptCache | None
) -> tuple[np.ndarray, ConditioningSeconds]:
    """Embeddings (batch, longest, E), and the seconds of text: reading and writing the cache is part of them."""
    start = time.perf_counter()
    embeds = None if cache is None else cache.load(tokens)
    if embeds is not None:
        return embeds, ConditioningSeconds(time.perf_counter() - start, 0.0, known=True)
    looked = time.perf_counter() - start
    encoder = components.get("text_encoder")
    start = time.perf_counter()
    embeds = encoder.infer(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)["prompt_embeds"]
    if cache is not None:
        cache.store(tokens, embeds)
    return embeds, ConditioningSeconds(looked + time.perf_counter() - start, 0.0)
