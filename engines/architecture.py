"""What a checkpoint's configuration files say, as frozen values.

Field names are those of the diffusers configuration files, their spelling included (``temperal_downsample``).
``checkpoint`` fills these from JSON and refuses what is not supported; a bundle's manifest stores them, so that a run
never needs the checkpoint.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from anyflow_rt.engines.json_types import wrong_type
from anyflow_rt.errors import BundleError


@dataclass(frozen=True)
class TransformerConfig:
    """``AnyFlowTransformer3DModel``: the flow-map denoiser u(z_t, t, r)."""

    patch_size: tuple[int, int, int] = (1, 2, 2)
    num_attention_heads: int = 40
    attention_head_dim: int = 128
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 4096
    freq_dim: int = 256
    ffn_dim: int = 13824
    num_layers: int = 40
    cross_attn_norm: bool = True
    eps: float = 1e-6
    image_dim: int | None = None
    rope_max_seq_len: int = 1024
    gate_value: float = 0.25
    deltatime_type: str = "r"

    @property
    def inner_dim(self) -> int:
        """Width of a token: heads x head_dim."""
        return self.num_attention_heads * self.attention_head_dim


@dataclass(frozen=True)
class CausalConfig:
    """What ``AnyFlowFARTransformer3DModel`` has beside that: chunks of latent frames, denoised one after another."""

    chunk_partition: tuple[int, ...] = (1, 3, 3, 3, 3, 3, 3, 2)
    full_chunk_limit: int = 3
    compressed_patch_size: tuple[int, int, int] = (1, 4, 4)


@dataclass(frozen=True)
class VaeConfig:
    """``AutoencoderKLWan``: frames <-> latents."""

    base_dim: int = 96
    decoder_base_dim: int | None = None
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attn_scales: tuple[float, ...] = ()
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    latents_mean: tuple[float, ...] = ()
    latents_std: tuple[float, ...] = ()
    is_residual: bool = False
    in_channels: int = 3
    out_channels: int = 3
    patch_size: int | None = None
    scale_factor_temporal: int = 4
    scale_factor_spatial: int = 8

    @property
    def temporal_factor(self) -> int:
        """Frames that one latent frame after the first decodes to."""
        return 2 ** sum(self.temperal_downsample[: len(self.dim_mult) - 1])

    @property
    def spatial_factor(self) -> int:
        """Pixels along one side that one latent position decodes to."""
        return 2 ** (len(self.dim_mult) - 1) * (self.patch_size or 1)


@dataclass(frozen=True)
class TextEncoderConfig:
    """``UMT5EncoderModel``."""

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "gated-gelu"
    pad_token_id: int = 0


@dataclass(frozen=True)
class SchedulerConfig:
    """``FlowMapEulerDiscreteScheduler``."""

    num_train_timesteps: int = 1000
    shift: float = 1.0


@dataclass(frozen=True)
class Architecture:
    """All of a checkpoint but its weights and its tokenizer. causal: None where all frames are denoised at once."""

    pipeline: str
    transformer: TransformerConfig
    vae: VaeConfig
    text_encoder: TextEncoderConfig
    scheduler: SchedulerConfig
    causal: CausalConfig | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values; ``from_dict`` is the inverse. ``causal`` is left out where there is none."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Architecture:
        """Rebuild from ``to_dict``'s value. Raises BundleError on missing or unknown keys and wrong types;
        the reader of the manifest, who knows where it lies, adds the mend."""
        if not isinstance(values.get("pipeline"), str):
            raise BundleError(f"the stored architecture's pipeline is {values.get('pipeline')!r}")
        parts: dict[str, Any] = {"pipeline": values["pipeline"]}
        for name, part in _PARTS.items():
            if name in values or name != "causal":
                parts[name] = _frozen(part, values.get(name), name)
        return cls(**parts)


_PARTS: dict[str, type] = {
    "transformer": TransformerConfig,
    "vae": VaeConfig,
    "text_encoder": TextEncoderConfig,
    "scheduler": SchedulerConfig,
    "causal": CausalConfig,
}


def _frozen(part: type, values: Any, name: str) -> Any:
    if not isinstance(values, dict):
        raise BundleError(f"the stored architecture has no {name!r} section")
    known = {field.name for field in fields(part)}
    if set(values) != known:
        odd = ", ".join(sorted(set(values) ^ known))
        raise BundleError(f"the stored {name} architecture differs in the keys {odd}")
    if wrong := wrong_type(part, values):
        raise BundleError(f"architecture.{name}.{wrong}")
    return part(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def parameter_estimate(architecture: Architecture) -> dict[str, int]:
    """Approximate parameter count of each network, from the configuration alone (to 2% or so).

    Used for the estimates of ``build --dry-run``, before any weight is read.
    """
    t, e = architecture.transformer, architecture.text_encoder
    dim = t.inner_dim
    block = 8 * dim * dim + 2 * dim * t.ffn_dim
    embedders = 2 * (t.freq_dim * dim + dim * dim) + 6 * dim * dim + t.text_dim * dim + dim * dim
    patch = math.prod(t.patch_size) * dim * (t.in_channels + t.out_channels)
    if architecture.causal is not None:
        patch += math.prod(architecture.causal.compressed_patch_size) * dim * t.in_channels
    attention = 4 * e.d_model * e.num_heads * e.d_kv
    gated = 3 if e.feed_forward_proj.startswith("gated") else 2
    text = e.vocab_size * e.d_model + e.num_layers * (attention + gated * e.d_model * e.d_ff)
    return {
        "transformer": t.num_layers * block + embedders + patch,
        "text_encoder": text,
        "vae": _vae_parameters(architecture.vae),
    }


def _vae_parameters(vae: VaeConfig) -> int:
    """3x3x3 convolutions of encoder and decoder; the rest is small."""
    total = 0
    for base, blocks in (
        (vae.base_dim, vae.num_res_blocks),
        (vae.decoder_base_dim or vae.base_dim, vae.num_res_blocks + 1),
    ):
        widths = [base * multiple for multiple in vae.dim_mult]
        total += 4 * 27 * widths[-1] ** 2
        total += sum(27 * 2 * blocks * width * width for width in widths)
    return total
