"""Which tensors a checkpoint's networks have, and their shapes, from the configuration alone.

Names are those of diffusers' and transformers' state dicts; tests compare these tables with theirs. Linear layers are
(out, in), convolutions (out, in, kernel ...).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from anyflow_rt.engines.architecture import (
    Architecture,
    CausalConfig,
    TextEncoderConfig,
    TransformerConfig,
    VaeConfig,
)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class NetworkTensors:
    """``required``: name -> shape. ``ignored``: prefixes of tensors that may be there and are never read.

    ``tied``: another name -> the required name it may stand for.
    """

    required: Mapping[str, Shape]
    ignored: tuple[str, ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)


def network_tensors(architecture: Architecture, component: str) -> NetworkTensors:
    """The tensors of ``component``: transformer, vae or text_encoder."""
    if component == "transformer":
        return transformer_tensors(architecture.transformer, architecture.causal)
    if component == "vae":
        return vae_tensors(architecture.vae)
    return text_encoder_tensors(architecture.text_encoder)


def transformer_tensors(config: TransformerConfig, causal: CausalConfig | None = None) -> NetworkTensors:
    """``AnyFlowTransformer3DModel``, or ``AnyFlowFARTransformer3DModel``."""
    dim, patch = config.inner_dim, config.patch_size
    table = _Table()
    table.add("patch_embedding", (dim, config.in_channels, *patch))
    if causal is not None:
        table.add("far_patch_embedding", (dim, config.in_channels, *causal.compressed_patch_size))
    for embedder in ("time_embedder", "delta_embedder"):
        table.add(f"condition_embedder.{embedder}.linear_1", (dim, config.freq_dim))
        table.add(f"condition_embedder.{embedder}.linear_2", (dim, dim))
    table.add("condition_embedder.time_proj", (6 * dim, dim))
    table.add("condition_embedder.text_embedder.linear_1", (dim, config.text_dim))
    table.add("condition_embedder.text_embedder.linear_2", (dim, dim))
    for layer in range(config.num_layers):
        block = f"blocks.{layer}"
        table.shapes[f"{block}.scale_shift_table"] = (1, 6, dim)
        for attention in (f"{block}.attn1", f"{block}.attn2"):
            for projection in ("to_q", "to_k", "to_v", "to_out.0"):
                table.add(f"{attention}.{projection}", (dim, dim))
            for norm in ("norm_q", "norm_k"):
                table.add(f"{attention}.{norm}", (dim,), bias=False)
        if config.cross_attn_norm:
            table.add(f"{block}.norm2", (dim,))
        table.add(f"{block}.ffn.net.0.proj", (config.ffn_dim, dim))
        table.add(f"{block}.ffn.net.2", (dim, config.ffn_dim))
    table.shapes["scale_shift_table"] = (1, 2, dim)
    table.add("proj_out", (config.out_channels * patch[1] * patch[2], dim))
    ignored = () if config.image_dim is None else ("condition_embedder.image_embedder.",)
    return NetworkTensors(table.shapes, ignored)


def text_encoder_tensors(config: TextEncoderConfig) -> NetworkTensors:
    """``UMT5EncoderModel``; a file of the whole encoder-decoder will do."""
    inner, gated = config.num_heads * config.d_kv, config.feed_forward_proj.startswith("gated-")
    table = _Table()
    table.add("shared", (config.vocab_size, config.d_model), bias=False)
    for layer in range(config.num_layers):
        attention, feed_forward = (f"encoder.block.{layer}.layer.{part}" for part in (0, 1))
        for projection in "qkv":
            table.add(f"{attention}.SelfAttention.{projection}", (inner, config.d_model), bias=False)
        table.add(f"{attention}.SelfAttention.o", (config.d_model, inner), bias=False)
        buckets = (config.relative_attention_num_buckets, config.num_heads)
        table.add(f"{attention}.SelfAttention.relative_attention_bias", buckets, bias=False)
        for projection in ("wi_0", "wi_1") if gated else ("wi",):
            table.add(f"{feed_forward}.DenseReluDense.{projection}", (config.d_ff, config.d_model), bias=False)
        table.add(f"{feed_forward}.DenseReluDense.wo", (config.d_model, config.d_ff), bias=False)
        for part in (attention, feed_forward):
            table.add(f"{part}.layer_norm", (config.d_model,), bias=False)
    table.add("encoder.final_layer_norm", (config.d_model,), bias=False)
    return NetworkTensors(
        table.shapes, ignored=("decoder.", "lm_head."), tied={"encoder.embed_tokens.weight": "shared.weight"}
    )


def vae_tensors(config: VaeConfig) -> NetworkTensors:
    """``AutoencoderKLWan``, encoder and decoder."""
    table = _Table()
    _add_vae_encoder(table, config)
    table.convolution("quant_conv", 2 * config.z_dim, 2 * config.z_dim, kernel=1)
    table.convolution("post_quant_conv", config.z_dim, config.z_dim, kernel=1)
    _add_vae_decoder(table, config)
    return NetworkTensors(table.shapes)


def _add_vae_encoder(table: _Table, config: VaeConfig) -> None:
    widths = [config.base_dim * multiple for multiple in (1, *config.dim_mult)]
    last = len(config.dim_mult) - 1
    table.convolution("encoder.conv_in", widths[0], config.in_channels)
    position = 0
    for level, (width, out) in enumerate(pairwise(widths)):
        for block in range(config.num_res_blocks):
            if config.is_residual:
                name = f"encoder.down_blocks.{level}.resnets.{block}"
            else:
                name, position = f"encoder.down_blocks.{position}", position + 1
            table.residual_block(name, out, width if block == 0 else out)
            if not config.is_residual and 0.5**level in config.attn_scales:
                table.attention_block(f"encoder.down_blocks.{position}", out)
                position += 1
        if level < last:
            if config.is_residual:
                name = f"encoder.down_blocks.{level}.downsampler"
            else:
                name, position = f"encoder.down_blocks.{position}", position + 1
            table.add(f"{name}.resample.1", (out, out, 3, 3))
            if config.temperal_downsample[level]:
                table.add(f"{name}.time_conv", (out, out, 3, 1, 1))
    table.middle_block("encoder.mid_block", widths[-1])
    table.gain("encoder.norm_out", widths[-1])
    table.convolution("encoder.conv_out", 2 * config.z_dim, widths[-1])


def _add_vae_decoder(table: _Table, config: VaeConfig) -> None:
    base = config.decoder_base_dim or config.base_dim
    widths = [base * multiple for multiple in (config.dim_mult[-1], *config.dim_mult[::-1])]
    last = len(config.dim_mult) - 1
    table.convolution("decoder.conv_in", widths[0], config.z_dim)
    table.middle_block("decoder.mid_block", widths[0])
    for level, (width, out) in enumerate(pairwise(widths)):
        name = f"decoder.up_blocks.{level}"
        if level > 0 and not config.is_residual:
            width //= 2  # the plain upsampling before it has halved the channels
        for block in range(config.num_res_blocks + 1):
            table.residual_block(f"{name}.resnets.{block}", out, width if block == 0 else out)
        if level < last:
            upsampler = f"{name}.upsampler" if config.is_residual else f"{name}.upsamplers.0"
            table.add(f"{upsampler}.resample.1", (out if config.is_residual else out // 2, out, 3, 3))
            if config.temperal_downsample[last - 1 - level]:
                table.add(f"{upsampler}.time_conv", (2 * out, out, 3, 1, 1))
    table.gain("decoder.norm_out", widths[-1])
    table.convolution("decoder.conv_out", config.out_channels, widths[-1])


class _Table:
    """Collects name -> shape."""

    def __init__(self) -> None:
        self.shapes: dict[str, Shape] = {}

    def add(self, name: str, weight: Shape, *, bias: bool = True) -> None:
        self.shapes[f"{name}.weight"] = weight
        if bias:
            self.shapes[f"{name}.bias"] = weight[:1]

    def convolution(self, name: str, out: int, width: int, kernel: int = 3) -> None:
        self.add(name, (out, width, kernel, kernel, kernel))

    def gain(self, name: str, width: int, dimensions: int = 3) -> None:
        self.shapes[f"{name}.gamma"] = (width, *(1 for _ in range(dimensions)))

    def residual_block(self, name: str, out: int, width: int) -> None:
        self.gain(f"{name}.norm1", width)
        self.convolution(f"{name}.conv1", out, width)
        self.gain(f"{name}.norm2", out)
        self.convolution(f"{name}.conv2", out, out)
        if out != width:
            self.convolution(f"{name}.conv_shortcut", out, width, kernel=1)

    def attention_block(self, name: str, width: int) -> None:
        self.gain(f"{name}.norm", width, dimensions=2)
        self.add(f"{name}.to_qkv", (3 * width, width, 1, 1))
        self.add(f"{name}.proj", (width, width, 1, 1))

    def middle_block(self, name: str, width: int) -> None:
        self.residual_block(f"{name}.resnets.0", width, width)
        self.attention_block(f"{name}.attentions.0", width)
        self.residual_block(f"{name}.resnets.1", width, width)
