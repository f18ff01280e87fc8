"""The random checkpoints that parity is tested on are random enough to mean something."""

from __future__ import annotations

import pytest
import torch
from support.checkpoints import CONFIGURATIONS, make_checkpoint
from support.sensitivity import LEAST_SENSITIVITY, load_reference, reference_sensitivity

from anyflow_rt.engines.checkpoint import NETWORKS, load_checkpoint

MADE_WITH = 1


def test_the_configurations_span_the_space():
    assert len(CONFIGURATIONS) >= 12
    values: dict[str, set[str]] = {}
    for parts in CONFIGURATIONS.values():
        for part, overrides in parts.items():
            for key, value in overrides.items():
                values.setdefault(f"{part}.{key}", set()).add(repr(value))
    for key in (
        *("num_attention_heads", "attention_head_dim", "num_layers", "ffn_dim", "text_dim", "freq_dim", "patch_size"),
        *("cross_attn_norm", "eps", "gate_value", "deltatime_type", "rope_max_seq_len", "image_dim", "in_channels"),
    ):
        assert values[f"transformer.{key}"], key
    for key in (
        *("base_dim", "decoder_base_dim", "z_dim", "dim_mult", "num_res_blocks", "attn_scales", "patch_size"),
        *("temperal_downsample", "is_residual", "scale_factor_spatial", "in_channels", "out_channels"),
    ):
        assert values[f"vae.{key}"], key
    assert {"'relu'", "'gelu_new'", "'gated-silu'"} <= values["text_encoder.feed_forward_proj"]
    assert {"1.0", "3.0"} <= values["scheduler.shift"] and {"500"} <= values["scheduler.num_train_timesteps"]


def test_everything_is_random_and_repeatable(tmp_path):
    one, same, other = (
        load_checkpoint(make_checkpoint(tmp_path / name, seed=seed))
        for name, seed in zip("abc", (5, 5, 6), strict=True)
    )
    for component in NETWORKS:
        weights, repeated, different = (checkpoint.weights(component) for checkpoint in (one, same, other))
        for name in weights:
            tensor = weights[name]
            assert tensor.std() > 0.02, f"{name} is nearly constant"
            assert torch.equal(tensor, repeated[name]) and not torch.equal(tensor, different[name]), name
    assert one.architecture == same.architecture
    assert one.architecture.vae.latents_mean != other.architecture.vae.latents_mean


def test_making_one_leaves_the_global_generator_alone(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    make_checkpoint(tmp_path, seed=1)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_reference_notices_every_mistake(name, tmp_path):
    path = make_checkpoint(tmp_path / name, seed=MADE_WITH, **CONFIGURATIONS[name])
    moved = reference_sensitivity(path)
    assert min(moved.values()) >= LEAST_SENSITIVITY, moved


@pytest.mark.parametrize("name", ["base", "residual_patched_vae"])
def test_pixels_are_neither_flat_nor_clamped(name, tmp_path):
    pipeline = load_reference(make_checkpoint(tmp_path / name, seed=MADE_WITH, **CONFIGURATIONS[name]))
    generator = torch.Generator().manual_seed(0)
    options = {"height": 32, "width": 32, "num_frames": 9, "num_inference_steps": 2, "output_type": "pt"}
    frames = pipeline("a red circle", generator=generator, **options).frames
    assert frames.std() > 0.1
    assert ((frames == 0) | (frames == 1)).float().mean() < 0.05
