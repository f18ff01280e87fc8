"""Training's form of the causal transformer equals diffusers' pipeline, and learns."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from anyflow_rt.benchmarks.shapes.recipe.causal import chunk_loss  # noqa: E402
from anyflow_rt.benchmarks.shapes.recipe.causal_transformer import CAUSAL, causal_from, chunk_velocity  # noqa: E402
from anyflow_rt.benchmarks.shapes.recipe.text import encode_prompts, new_text_encoder, new_tokenizer  # noqa: E402
from anyflow_rt.benchmarks.shapes.recipe.training import Batch  # noqa: E402
from anyflow_rt.benchmarks.shapes.recipe.transformer import new_transformer  # noqa: E402
from anyflow_rt.parity import uncompiled_flex_attention  # noqa: E402


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes minutes."""
    monkeypatch.setenv("ANYFLOW_RT_TRAIN_COMPILE", "0")


@pytest.fixture(scope="module")
def networks() -> tuple[Any, Any]:
    torch.manual_seed(0)
    transformer, encoder = causal_from(new_transformer()).eval(), new_text_encoder().eval()
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return transformer, encoder


def prompts(encoder: Any) -> tuple[Any, Any]:
    tokens = new_tokenizer()(["a small red circle moving left", "rising"], padding=True, return_tensors="pt")
    return tokens, encode_prompts(encoder, tokens.input_ids, tokens.attention_mask)


def reference(transformer: Any, index: int, clean: Any, noisy: Any, start: Any, end: Any, prompt: Any) -> Any:
    """The chunk's velocity through diffusers' cache, as its pipeline fills and reads it."""
    partition, config = list(CAUSAL.chunk_partition), transformer.config
    batch, tokens = len(clean), 16
    shape = (2, batch, config.num_attention_heads, 8 * tokens, config.attention_head_dim)
    cache = {
        layer: {"full_cache": torch.zeros(shape), "compressed_cache": torch.zeros(shape)}
        for layer in range(config.num_layers)
    }
    flag = {"num_cached_chunks": index, "is_cache_step": True}
    frames = sum(partition[:index])
    with uncompiled_flex_attention(), torch.no_grad():
        if index:
            still = torch.zeros(batch, frames)
            transformer(
                clean[:, :frames], still, still, prompt, partition[:index], kv_cache=cache, kv_cache_flag=dict(flag)
            )
        times = ((1000 * time)[:, None].expand(-1, partition[index]) for time in (start, end))
        flag["is_cache_step"] = False
        chunks = partition[: index + 1]
        return transformer(noisy, *times, prompt, chunks, kv_cache=cache, kv_cache_flag=dict(flag)).sample


@pytest.mark.parametrize("index", range(3))
def test_chunk_velocity_equals_diffusers(networks: tuple[Any, Any], index: int) -> None:
    transformer, encoder = networks
    torch.manual_seed(index)
    clean, noisy = torch.randn(2, 5, 16, 8, 8), torch.randn(2, CAUSAL.chunk_partition[index], 16, 8, 8)
    start, end = torch.tensor([1.0, 0.4]), torch.tensor([0.3, 0.4])
    with torch.no_grad():
        _, (prompt, bias) = prompts(encoder)
        quick = chunk_velocity(transformer, index, clean, noisy, start, end, prompt, bias)
    padded = torch.nn.functional.pad(prompt, (0, 0, 0, 512 - prompt.shape[1]))
    slow = reference(transformer, index, clean, noisy, start, end, padded)
    assert float((quick - slow).norm() / slow.norm()) < 1e-5


def test_every_chunk_teaches_the_network(networks: tuple[Any, Any]) -> None:
    transformer, encoder = networks
    tokens, _ = prompts(encoder)
    latents = torch.randn(2, 5, 16, 8, 8)
    batch = Batch(latents, torch.randn_like(latents), tokens.input_ids, tokens.attention_mask)
    for index in range(3):
        transformer.zero_grad()
        loss, figures = chunk_loss(transformer, encoder, batch, index)
        loss.backward()
        assert set(figures) == {"loss", f"jump_loss_{index}"} and torch.isfinite(loss)
        used = transformer.far_patch_embedding.weight.grad
        assert (used is not None and bool(used.abs().max() > 0)) == (index == 2), "compressed for the last chunk alone"
