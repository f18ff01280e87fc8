"""Random AnyFlow checkpoints in the diffusers layout, small enough to make in a second or two.

``make_checkpoint`` writes a directory that diffusers' own ``AnyFlowPipeline.from_pretrained`` loads. Nothing keeps an
initial value that would hide a mistake: norm gains are not one, biases and tables not zero, gates, relative biases and
latent statistics are random. ``CONFIGURATIONS`` spans the configuration space; ``sensitivity.py`` measures that each
of these checkpoints reacts to the mistakes a runtime could make.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

WORDS = ("a", "the", "red", "green", "blue", "circle", "square", "moves", "left", "right", "slowly", "over", "small")
PUNCTUATION = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?'\"&<>-_()/"

TRANSFORMER: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 24,
    "freq_dim": 32,
    "ffn_dim": 48,
    "num_layers": 2,
    "rope_max_seq_len": 64,
}
VAE: dict[str, Any] = {"base_dim": 8, "z_dim": 16, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1}
TEXT_ENCODER: dict[str, Any] = {"d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 2}
SCHEDULER: dict[str, Any] = {"num_train_timesteps": 1000, "shift": 5.0}

RGB_PATCHES = {"in_channels": 12, "out_channels": 12, "patch_size": 2}
"""What a VAE over 2x2 pixel patches has in place of three colour channels."""

CONFIGURATIONS: dict[str, dict[str, dict[str, Any]]] = {
    "base": {},
    "one_head_one_layer": {
        "transformer": {"num_attention_heads": 1, "attention_head_dim": 24, "num_layers": 1, "gate_value": 0.5},
        "scheduler": {"shift": 1.0},
    },
    "interval_conditioned": {
        "transformer": {"deltatime_type": "t-r", "num_attention_heads": 3, "attention_head_dim": 12},
        "scheduler": {"shift": 3.0},
    },
    "interval_half_range": {
        "transformer": {"deltatime_type": "t-r", "gate_value": 0.6, "freq_dim": 64, "num_layers": 3},
        "scheduler": {"shift": 5.0, "num_train_timesteps": 500},
    },
    "no_cross_norm": {
        "transformer": {"cross_attn_norm": False, "num_attention_heads": 4, "attention_head_dim": 20, "eps": 1e-2},
        "vae": {"temperal_downsample": [True, True, False]},
        "text_encoder": {"feed_forward_proj": "relu", "layer_norm_epsilon": 1e-2},
    },
    "wide_head": {
        "transformer": {"num_attention_heads": 1, "attention_head_dim": 64, "ffn_dim": 80, "num_layers": 1},
        "vae": {"temperal_downsample": [True, False, True]},
    },
    "three_scales": {
        "transformer": {"attention_head_dim": 22, "eps": 1e-3},
        "vae": {
            "dim_mult": [1, 2, 4],
            "temperal_downsample": [True, True],
            "scale_factor_spatial": 4,
            "num_res_blocks": 2,
        },
        "text_encoder": {"relative_attention_num_buckets": 16, "relative_attention_max_distance": 20},
    },
    "residual_patched_vae": {
        "transformer": {"in_channels": 20, "out_channels": 20, "num_attention_heads": 3},
        "vae": {
            "is_residual": True,
            "z_dim": 20,
            "dim_mult": [1, 2, 4, 4],
            "decoder_base_dim": 12,
            "scale_factor_spatial": 16,
            **RGB_PATCHES,
        },
    },
    "patched_vae": {
        "transformer": {"patch_size": (1, 1, 1)},
        "vae": {"dim_mult": [1, 2, 2], "temperal_downsample": [True, True], "scale_factor_spatial": 8, **RGB_PATCHES},
        "text_encoder": {"feed_forward_proj": "gated-silu", "num_heads": 3},
    },
    "residual_vae": {
        "transformer": {"gate_value": 0.15, "num_attention_heads": 4, "attention_head_dim": 12},
        "vae": {"is_residual": True, "base_dim": 12, "num_res_blocks": 2, "temperal_downsample": [True, True, False]},
        "scheduler": {"shift": 3.0},
    },
    "image_embedder": {
        "transformer": {"image_dim": 20, "num_layers": 1, "rope_max_seq_len": 33},
        "vae": {"decoder_base_dim": 12},
        "scheduler": {"num_train_timesteps": 500, "shift": 1.0},
    },
    "eight_channels": {
        "transformer": {"in_channels": 8, "out_channels": 8, "text_dim": 40, "attention_head_dim": 32, "freq_dim": 16},
        "vae": {"z_dim": 8, "base_dim": 12, "dim_mult": [1, 1, 2, 3]},
        "text_encoder": {"num_layers": 1, "d_kv": 12, "feed_forward_proj": "gelu_new"},
    },
    "uneven_decoder": {
        "transformer": {"deltatime_type": "t-r", "cross_attn_norm": False, "ffn_dim": 30, "gate_value": 0.4},
        "vae": {"base_dim": 12, "decoder_base_dim": 8, "num_res_blocks": 2, "dim_mult": [1, 2, 3, 4]},
        "text_encoder": {"num_layers": 3, "num_heads": 4},
    },
    "attention_scales": {
        "transformer": {"num_layers": 1},
        "vae": {"attn_scales": [0.5]},
        "scheduler": {"shift": 2.0},
    },
}


def make_checkpoint(
    directory: str | Path,
    *,
    seed: int,
    transformer: dict[str, Any] | None = None,
    vae: dict[str, Any] | None = None,
    text_encoder: dict[str, Any] | None = None,
    scheduler: dict[str, Any] | None = None,
    causal: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    **saving: Any,
) -> Path:
    """Write a random checkpoint into ``directory`` and return it.

    The first four dictionaries override keys of this module's small default configurations; ``text_dim`` of the
    transformer also sets ``d_model``. ``causal``: the transformer's further keys, for ``AnyFlowFARPipeline``.
    ``dtype`` is that of the stored weights. ``saving`` goes to diffusers' ``save_pretrained``
    (``max_shard_size="20KB"``, ``variant="fp16"``). The same arguments give the same weights.
    """
    import diffusers
    import transformers

    generator = torch.Generator().manual_seed(seed)
    tokenizer = make_tokenizer()
    transformer_config = {**TRANSFORMER, **(transformer or {})}
    vae_config = {**VAE, **_latent_statistics({**VAE, **(vae or {})}["z_dim"], generator), **(vae or {})}
    text_config = {
        **TEXT_ENCODER,
        "vocab_size": len(tokenizer),
        "d_model": transformer_config["text_dim"],
        "dropout_rate": 0.0,
        **(text_encoder or {}),
    }
    kind = diffusers.AnyFlowTransformer3DModel if causal is None else diffusers.AnyFlowFARTransformer3DModel
    with torch.random.fork_rng():
        networks: dict[str, Any] = {
            "transformer": kind(**transformer_config, **(causal or {})),
            "vae": diffusers.AutoencoderKLWan(**vae_config),
            "text_encoder": transformers.UMT5EncoderModel(transformers.UMT5Config(**text_config)),
        }
    for network in networks.values():
        randomise(network, generator)
    _calibrate(networks["transformer"], networks["vae"], generator)
    pipeline_kind = diffusers.AnyFlowPipeline if causal is None else diffusers.AnyFlowFARPipeline
    pipeline = pipeline_kind(
        tokenizer=tokenizer,
        scheduler=diffusers.FlowMapEulerDiscreteScheduler(**{**SCHEDULER, **(scheduler or {})}),
        **{name: network.to(dtype) for name, network in networks.items()},
    )
    pipeline.save_pretrained(str(directory), **saving)
    return Path(directory)


def make_tokenizer() -> Any:
    """A Unigram tokenizer with UMT5's layout: ``<pad>`` is 0, ``</s>`` 1 and appended, ``<unk>`` 2."""
    import transformers

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [("▁", -4.0), *((f"▁{word}", -2.0) for word in WORDS), *((character, -6.0) for character in PUNCTUATION)]
    return transformers.T5TokenizerFast(vocab=[*special, *pieces], extra_ids=0, model_max_length=512)


def randomise(network: torch.nn.Module, generator: torch.Generator) -> None:
    """Redraw every parameter, with gains that keep activations of order one.

    Queries and keys get larger gains: attention must be far from uniform, or positions, frame order and the number of
    padded prompt positions would hardly be seen in the output.
    """
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(_random_value(name, parameter, generator))


def _random_value(name: str, parameter: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(parameter.shape, generator=generator)
    if name.endswith("scale_shift_table"):
        return 0.4 * noise
    if name.endswith("relative_attention_bias.weight"):
        return 1.5 * noise
    if name.endswith("bias"):
        return 0.2 * noise
    if "norm_q" in name or "norm_k" in name:
        return 1.6 + 0.3 * noise
    if name.endswith("gamma") or "norm" in name:
        return 1.0 + 0.25 * noise
    if "shared" in name or "embed_tokens" in name:
        return noise
    fan_in = math.prod(parameter.shape[1:])
    gain = 1.0
    if name.endswith((".q.weight", ".k.weight")):
        # UMT5 does not divide its scores by sqrt(d_kv); this keeps them at a standard deviation near two.
        gain = 1.4 * (parameter.shape[0]) ** -0.25
    elif "embedder.linear" in name or "time_proj" in name:
        gain = 1.8
    elif "attn2.to_v" in name:
        # The average over 512 prompt positions, most of them padding, is small; its changes are to be seen.
        gain = 2.5
    return gain * noise / math.sqrt(fan_in)


def _latent_statistics(channels: int, generator: torch.Generator) -> dict[str, list[float]]:
    mean = 0.8 * torch.randn(channels, generator=generator)
    deviation = 0.6 + 1.4 * torch.rand(channels, generator=generator)
    return {"latents_mean": mean.tolist(), "latents_std": deviation.tolist()}


def _calibrate(transformer: Any, vae: Any, generator: torch.Generator) -> None:
    """Scale both heads: velocities of standard deviation one, pixels of 0.35 (a few per cent of them clamped)."""
    config = transformer.config
    side = 4 * config.patch_size[1]
    latents = torch.randn((1, 3, config.in_channels, side, side), generator=generator)
    prompt = torch.randn((1, 16, config.text_dim), generator=generator)
    with torch.no_grad():
        time = torch.full((1, 3), 600.0)
        chunks = {"chunk_partition": [3]} if "chunk_partition" in config else {}
        velocity = transformer(latents, time, time / 2, prompt, return_dict=False, **chunks)[0]
        transformer.proj_out.weight /= velocity.std()
        transformer.proj_out.bias /= velocity.std()
        deviation = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
        mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
        decoded = latents.transpose(1, 2)[:, :, :, :4, :4] * deviation + mean
        pixels: list[torch.Tensor] = []
        handle = vae.decoder.register_forward_hook(lambda _module, _inputs, output: pixels.append(output))
        vae.decode(decoded)
        handle.remove()
        scale = 0.35 / torch.cat(pixels, dim=2).std()
        vae.decoder.conv_out.weight *= scale
        vae.decoder.conv_out.bias *= scale
