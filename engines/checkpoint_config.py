"""The configuration files of a diffusers AnyFlow checkpoint -> ``Architecture``.

What the reference (diffusers 0.42) honours is honoured. A key whose absence would change the video without an error
(sizes, ``gate_value``, ``deltatime_type``, ``eps``, ``shift``, latent statistics ...) must be there; keys that later
versions of diffusers added, and that older files therefore lack, take diffusers' own default. Keys that start with
``_`` are bookkeeping. Any other key with a value is refused by name, unless a table below says why it is harmless.
"""

from __future__ import annotations

from pathlib import Path

from anyflow_rt.engines.architecture import (
    Architecture,
    SchedulerConfig,
    TextEncoderConfig,
    TransformerConfig,
    VaeConfig,
)
from anyflow_rt.engines.checkpoint_causal import CAUSAL_PIPELINES, CAUSAL_TRANSFORMERS, read_causal
from anyflow_rt.engines.checkpoint_file import ConfigFile
from anyflow_rt.engines.checkpoint_parts import located
from anyflow_rt.errors import CheckpointError

PIPELINES = ("AnyFlowPipeline", "WanAnyFlowPipeline")
"""diffusers' name and NVlabs' name of the bidirectional pipeline."""

COMPONENT_CLASSES = {
    "transformer": ("AnyFlowTransformer3DModel", "FAR_Wan_Transformer3DModel"),
    "vae": ("AutoencoderKLWan",),
    "text_encoder": ("UMT5EncoderModel",),
    "scheduler": ("FlowMapEulerDiscreteScheduler", "FlowMapDiscreteScheduler"),
}
"""NVlabs has one transformer class for both its pipelines; ``init_far_model`` tells which one it is."""

MOST_LAYERS = 1000
"""Of one network. Tables of all its tensors are made before the weights are looked at, so a number that is a mistake
must not fill the memory first."""

TOKENIZER_SUFFIXES = ("Tokenizer", "TokenizerFast")
"""How every tokenizer class of transformers ends."""

ACTIVATIONS = ("relu", "silu", "gelu", "gelu_new")
"""Of the text encoder's feed-forward, each also as ``gated-...``."""

_CAUSAL_ONLY = "NVlabs' causal path alone reads it, and init_far_model is false"
TRANSFORMER_HARMLESS = {
    "chunk_partition": _CAUSAL_ONLY,
    "compressed_patch_size": _CAUSAL_ONLY,
    "full_chunk_limit": _CAUSAL_ONLY,
}
VAE_HARMLESS = {"dropout": "off at inference"}
SCHEDULER_HARMLESS = {"weight_type": "weighs NVlabs' training loss"}
TEXT_ENCODER_HARMLESS = {
    **dict.fromkeys(("dropout_rate", "classifier_dropout"), "off at inference"),
    "initializer_factor": "used before training",
    **dict.fromkeys(("architectures", "name_or_path", "transformers_version"), "says where the file came from"),
    **dict.fromkeys(("dtype", "torch_dtype"), "the dtype is taken from the tensors"),
    "tokenizer_class": "the tokenizer is taken from tokenizer.json",
    **dict.fromkeys(
        (
            *("is_encoder_decoder", "num_decoder_layers", "decoder_start_token_id", "use_cache"),
            *("tie_word_embeddings", "output_past", "eos_token_id", "bos_token_id", "task_specific_params"),
        ),
        "concerns the decoder, which AnyFlow does not use",
    ),
    "scalable_attention": "a mark of the conversion script; transformers does not read it",
    "n_positions": "relative positions have no length limit",
    **dict.fromkeys(("output_attentions", "output_hidden_states", "return_dict"), "extra outputs, not the embeddings"),
}


def read_architecture(folder: Path) -> Architecture:
    """Read ``model_index.json`` and the four configuration files under ``folder``.

    Raises CheckpointError, one line naming file, key and value, where something is missing, damaged, contradictory or
    not supported.
    """
    pipeline = _read_index(ConfigFile(folder / "model_index.json"))
    is_causal = pipeline in CAUSAL_PIPELINES
    denoiser = ConfigFile(located(folder, "transformer/config.json"))
    transformer = read_transformer(denoiser, causal=is_causal)
    causal = read_causal(denoiser, transformer) if is_causal else None
    vae = read_vae(ConfigFile(located(folder, "vae/config.json")))
    text_encoder = read_text_encoder(ConfigFile(located(folder, "text_encoder/config.json")))
    scheduler = read_scheduler(ConfigFile(located(folder, "scheduler/scheduler_config.json")))
    if vae.z_dim != transformer.in_channels:
        raise CheckpointError(
            f"{folder}: the VAE has z_dim {vae.z_dim} but the transformer in_channels {transformer.in_channels}; "
            "they must be equal, so these two networks do not belong together"
        )
    if text_encoder.d_model != transformer.text_dim:
        raise CheckpointError(
            f"{folder}: the text encoder has d_model {text_encoder.d_model} but the transformer text_dim "
            f"{transformer.text_dim}; they must be equal, so these two networks do not belong together"
        )
    return Architecture(pipeline, transformer, vae, text_encoder, scheduler, causal)


def _read_index(index: ConfigFile) -> str:
    pipeline = index.choice("_class_name", (*PIPELINES, *CAUSAL_PIPELINES))
    for name, accepted in _classes(causal=pipeline in CAUSAL_PIPELINES).items():
        entry = index.take(name)
        if not (_is_class_entry(entry) and entry[1] in accepted):
            index.refuse(name, f"supported: {', '.join(accepted)}")
    entry = index.take("tokenizer")
    if not (_is_class_entry(entry) and entry[1].endswith(TOKENIZER_SUFFIXES)):
        index.refuse("tokenizer", 'a library and its tokenizer class are needed: ["transformers", "T5TokenizerFast"]')
    index.only("use_mean_velocity", True, "set it to true and pass mean_velocity=False to the run instead")
    index.finish({})
    return pipeline


def _is_class_entry(entry: object) -> bool:
    """Whether it is what model_index.json holds for a component: [library, class]."""
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)


def _classes(*, causal: bool) -> dict[str, tuple[str, ...]]:
    return {**COMPONENT_CLASSES, "transformer": CAUSAL_TRANSFORMERS} if causal else COMPONENT_CLASSES


def _check_class(config: ConfigFile, component: str, *, causal: bool = False) -> None:
    if "_class_name" in config.values:
        config.choice("_class_name", _classes(causal=causal)[component])


def read_transformer(config: ConfigFile, *, causal: bool = False) -> TransformerConfig:
    """``transformer/config.json``. ``image_dim`` is kept, but image embeddings are never fed to text-to-video."""
    _check_class(config, "transformer", causal=causal)
    kind = "causal" if causal else "bidirectional"
    config.only(
        "init_far_model", causal, f"model_index.json says the pipeline is {kind}; take both from one checkpoint"
    )
    config.only("init_flowmap_model", True, "this is not a flow-map model; AnyFlow needs true")
    config.only("qk_norm", "rms_norm_across_heads", "supported: rms_norm_across_heads")
    config.only("added_kv_proj_dim", None, "image keys and values are not supported; supported: null")
    patch = config.wholes("patch_size")
    if len(patch) != 3 or patch[0] != 1 or patch[1] != patch[2]:
        config.refuse("patch_size", "supported: [1, p, p], which is all that the reference can put together again")
    in_channels = config.whole("in_channels")
    # diffusers reads a null (or zero) as "like in_channels".
    out_channels = in_channels if not config.take("out_channels", None) else config.whole("out_channels")
    if out_channels != in_channels:
        config.refuse("out_channels", f"a velocity has the channels of the latents: in_channels is {in_channels}")
    head_dim = config.whole("attention_head_dim")
    if head_dim % 2:
        config.refuse("attention_head_dim", "rotary embedding turns pairs, so an even number is needed")
    eps = config.number("eps")
    if eps < 0:
        config.refuse("eps", "a number of at least 0 is needed")
    result = TransformerConfig(
        patch_size=(patch[0], patch[1], patch[2]),
        num_attention_heads=config.whole("num_attention_heads"),
        attention_head_dim=head_dim,
        in_channels=in_channels,
        out_channels=out_channels,
        text_dim=config.whole("text_dim"),
        freq_dim=config.whole("freq_dim", least=2),
        ffn_dim=config.whole("ffn_dim"),
        num_layers=config.whole("num_layers", most=MOST_LAYERS),
        cross_attn_norm=config.flag("cross_attn_norm"),
        eps=eps,
        image_dim=config.optional_whole("image_dim"),
        rope_max_seq_len=config.whole("rope_max_seq_len", 1024),
        gate_value=config.number("gate_value"),
        deltatime_type=config.choice("deltatime_type", ("r", "t-r")),
    )
    config.finish(TRANSFORMER_HARMLESS)
    return result


def read_vae(config: ConfigFile) -> VaeConfig:
    """``vae/config.json``."""
    _check_class(config, "vae")
    result = VaeConfig(
        base_dim=config.whole("base_dim"),
        decoder_base_dim=config.optional_whole("decoder_base_dim"),
        z_dim=config.whole("z_dim"),
        dim_mult=config.wholes("dim_mult"),
        num_res_blocks=config.whole("num_res_blocks", most=MOST_LAYERS),
        attn_scales=config.numbers("attn_scales", []),
        temperal_downsample=config.flags("temperal_downsample"),
        latents_mean=config.numbers("latents_mean"),
        latents_std=config.numbers("latents_std"),
        is_residual=config.flag("is_residual", False),
        in_channels=config.whole("in_channels", 3),
        out_channels=config.whole("out_channels", 3),
        patch_size=config.optional_whole("patch_size"),
        scale_factor_temporal=config.whole("scale_factor_temporal", 4),
        scale_factor_spatial=config.whole("scale_factor_spatial", 8),
    )
    config.finish(VAE_HARMLESS)
    _check_vae(config, result)
    return result


def _check_vae(config: ConfigFile, vae: VaeConfig) -> None:
    downsamplings = len(vae.dim_mult) - 1
    if len(vae.temperal_downsample) != downsamplings:
        config.refuse("temperal_downsample", f"dim_mult has {len(vae.dim_mult)} levels, so {downsamplings} are needed")
    if vae.temporal_factor != 4:
        config.refuse("temperal_downsample", "two must be true: the reference always takes 4 frames a latent frame")
    colours = 3 * (vae.patch_size or 1) ** 2
    for key in ("in_channels", "out_channels"):
        if getattr(vae, key) != colours:
            config.refuse(key, f"RGB with patch_size {vae.patch_size or 1} needs {colours}")
    for key, real in (("scale_factor_temporal", 4), ("scale_factor_spatial", vae.spatial_factor)):
        if getattr(vae, key) != real:
            given = "the file's" if key in config.values else "the default"
            config.refuse(key, f"{given} {getattr(vae, key)} contradicts the network, whose factor is {real}")
    for key in ("latents_mean", "latents_std"):
        if len(getattr(vae, key)) != vae.z_dim:
            config.refuse(key, f"z_dim is {vae.z_dim}, so as many numbers are needed, not {len(getattr(vae, key))}")
    if min(vae.latents_std) <= 0:
        config.refuse("latents_std", f"standard deviations are above 0, but one is {min(vae.latents_std)}")
    if vae.is_residual:
        _check_residual_shortcuts(config, vae)


def _check_residual_shortcuts(config: ConfigFile, vae: VaeConfig) -> None:
    """The parameter-free shortcuts average or repeat channels, which only works for whole groups of them."""
    levels = len(vae.dim_mult) - 1
    encoder = [vae.base_dim * multiple for multiple in (1, *vae.dim_mult)]
    for level in range(levels + 1):
        factor = (8 if vae.temperal_downsample[level] else 4) if level < levels else 1
        if encoder[level] * factor % encoder[level + 1]:
            config.refuse("dim_mult", f"is_residual needs {encoder[level + 1]} to divide {factor} x {encoder[level]}")
    base = vae.decoder_base_dim or vae.base_dim
    decoder = [base * multiple for multiple in (vae.dim_mult[-1], *vae.dim_mult[::-1])]
    for level in range(levels):
        factor = 8 if vae.temperal_downsample[levels - 1 - level] else 4
        if decoder[level + 1] * factor % decoder[level]:
            config.refuse("dim_mult", f"is_residual needs {decoder[level]} to divide {factor} x {decoder[level + 1]}")


def read_text_encoder(config: ConfigFile) -> TextEncoderConfig:
    """``text_encoder/config.json``."""
    config.only("model_type", "umt5", "supported: umt5")
    config.only("is_decoder", False, "an encoder is needed: false")
    names = tuple(prefix + name for name in ACTIVATIONS for prefix in ("", "gated-"))
    projection = config.choice("feed_forward_proj", names)
    # transformers lets these two override what feed_forward_proj says.
    activation = "gelu_new" if projection == "gated-gelu" else projection.removeprefix("gated-")
    config.only("dense_act_fn", activation, f"feed_forward_proj {projection} means {activation}")
    gated = projection.startswith("gated-")
    config.only("is_gated_act", gated, f"feed_forward_proj {projection} means {str(gated).lower()}")
    buckets = config.whole("relative_attention_num_buckets", least=4)
    distance = config.whole("relative_attention_max_distance", 128)
    if distance <= buckets // 4:
        config.refuse("relative_attention_max_distance", f"more than a quarter of the {buckets} buckets is needed")
    epsilon = config.number("layer_norm_epsilon")
    if epsilon < 0:
        config.refuse("layer_norm_epsilon", "a number of at least 0 is needed")
    result = TextEncoderConfig(
        vocab_size=config.whole("vocab_size"),
        d_model=config.whole("d_model"),
        d_kv=config.whole("d_kv"),
        d_ff=config.whole("d_ff"),
        num_layers=config.whole("num_layers", most=MOST_LAYERS),
        num_heads=config.whole("num_heads"),
        relative_attention_num_buckets=buckets,
        relative_attention_max_distance=distance,
        layer_norm_epsilon=epsilon,
        feed_forward_proj=projection,
        pad_token_id=config.whole("pad_token_id", 0, least=0),
    )
    config.finish(TEXT_ENCODER_HARMLESS)
    return result


def read_scheduler(config: ConfigFile) -> SchedulerConfig:
    """``scheduler/scheduler_config.json``."""
    _check_class(config, "scheduler")
    shift = config.number("shift")
    if shift <= 0:
        config.refuse("shift", "a number above 0 is needed")
    result = SchedulerConfig(num_train_timesteps=config.whole("num_train_timesteps"), shift=shift)
    config.finish(SCHEDULER_HARMLESS)
    return result
