"""Prompts -> what the denoiser reads of them: cross-attention keys, values and the biases of the padding's keys."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from anyflow_rt.components import Components
from anyflow_rt.engines import geometry
from anyflow_rt.prompt import TokenBatch


@dataclass(frozen=True)
class Conditioning:
    """Arrays as in the component table; the batch is already that of the videos."""

    cross_key: Any
    cross_value: Any
    context_bias: Any


@dataclass(frozen=True)
class ConditioningSeconds:
    """Where the time went."""

    text: float
    conditioner: float

    def __add__(self, other: ConditioningSeconds) -> ConditioningSeconds:
        return ConditioningSeconds(self.text + other.text, self.conditioner + other.conditioner)


def condition(
    components: Components, tokens: TokenBatch, max_sequence_length: int, num_videos: int
) -> tuple[Conditioning, ConditioningSeconds]:
    """Encode each prompt once and repeat it for its videos, prompt-major."""
    encoder, conditioner = components.get("text_encoder"), components.get("conditioner")
    start = time.perf_counter()
    embeds = encoder.infer(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)["prompt_embeds"]
    text_done = time.perf_counter()
    batch, length = tokens.input_ids.shape
    bias = geometry.pad_bias(max_sequence_length, length, batch)
    out = conditioner.infer(prompt_embeds=embeds, pad_bias=bias)
    if num_videos > 1:
        # By index, which arrays of numpy and tensors of torch both understand.
        rows = np.repeat(np.arange(batch), num_videos)
        keys = {name: out[name][:, rows] for name in ("cross_key", "cross_value")}
        out = {**keys, "context_bias": out["context_bias"][rows]}
    done = time.perf_counter()
    return Conditioning(**out), ConditioningSeconds(text_done - start, done - text_done)
