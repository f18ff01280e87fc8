"""A checkpoint that cannot be run is refused in one line naming the file, the value and the mend."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import CONFIGURATIONS, make_checkpoint

from anyflow_rt.engines.checkpoint import load_checkpoint
from anyflow_rt.errors import CheckpointError

T, V, E, S = "transformer/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json"
INDEX = "model_index.json"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("base"), seed=1)


@pytest.fixture
def copy(base, tmp_path):
    return shutil.copytree(base, tmp_path / "copy")


def refusal(path: str | Path) -> str:
    """The message, which is one line and ends with what to do (after a semicolon, or in brackets)."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message and re.search(r"[;(:]", message)
    return message


REFUSED_VALUES = [
    (INDEX, "_class_name", "AnyFlowFARPipeline", "AnyFlowTransformer3DModel.*supported: AnyFlowFARTransformer3DModel"),
    (INDEX, "_class_name", "FARWanAnyFlowPipeline", "supported: AnyFlowFARTransformer3DModel, FAR_Wan_Transformer3D"),
    (INDEX, "_class_name", "WanPipeline", "WanPipeline.*AnyFlowPipeline, WanAnyFlowPipeline"),
    (INDEX, "_class_name", ["pipeline", "AnyFlowPipeline"], "supported: AnyFlowPipeline"),
    (INDEX, "transformer", ["diffusers", "WanTransformer3DModel"], "WanTransformer3DModel.*AnyFlowTransformer3DModel"),
    (INDEX, "vae", ["diffusers", "AutoencoderKL"], "AutoencoderKL.*AutoencoderKLWan"),
    (INDEX, "text_encoder", ["transformers", "T5EncoderModel"], "T5EncoderModel.*UMT5EncoderModel"),
    (INDEX, "scheduler", ["diffusers", "UniPCMultistepScheduler"], "UniPC.*FlowMapEulerDiscreteScheduler"),
    (INDEX, "vae", [None, None], "supported: AutoencoderKLWan"),
    (INDEX, "tokenizer", 5, "tokenizer is 5; .*T5TokenizerFast"),
    (INDEX, "tokenizer", ["transformers"], "T5TokenizerFast"),
    (INDEX, "tokenizer", [None, None], "T5TokenizerFast"),
    (INDEX, "tokenizer", ["transformers", "UMT5EncoderModel"], "UMT5EncoderModel.*tokenizer class"),
    (INDEX, "vae", ["diffusers", ["AutoencoderKLWan"]], "supported: AutoencoderKLWan"),
    (INDEX, "transformer_2", ["diffusers", "AnyFlowTransformer3DModel"], "transformer_2.*not supported"),
    (INDEX, "use_mean_velocity", False, "use_mean_velocity is false.*mean_velocity=False"),
    (T, "_class_name", "AnyFlowFARTransformer3DModel", "AnyFlowFARTransformer3DModel"),
    (T, "patch_size", [2, 2, 2], r"\[2, 2, 2\].*\[1, p, p\]"),
    (T, "patch_size", [1, 2, 4], r"\[1, p, p\]"),
    (T, "patch_size", 2, "list"),
    (T, "out_channels", 32, "in_channels is 16"),
    (T, "attention_head_dim", 15, "15.*even"),
    (T, "deltatime_type", "t", '"t".*r, t-r'),
    (T, "num_layers", 0, "at least 1"),
    (T, "num_layers", 10**9, "1000000000; at most 1000"),
    (E, "num_layers", 10**9, "1000000000; at most 1000"),
    (V, "num_res_blocks", 10**9, "1000000000; at most 1000"),
    (T, "num_layers", 2.0, "whole number"),
    (T, "num_layers", True, "whole number"),
    (T, "eps", -1, "at least 0"),
    (T, "eps", float("nan"), "finite"),
    (T, "gate_value", None, "finite number"),
    (T, "cross_attn_norm", 1, "true or false"),
    (T, "image_dim", 0, "at least 1"),
    (T, "rope_max_seq_len", 0, "at least 1"),
    (T, "freq_dim", 1, "at least 2"),
    (T, "init_far_model", True, "init_far_model is true.*the pipeline is bidirectional"),
    (T, "init_flowmap_model", False, "not a flow-map model"),
    (T, "qk_norm", None, "rms_norm_across_heads"),
    (T, "added_kv_proj_dim", 64, "supported: null"),
    (T, "pos_embed_seq_len", 514, "pos_embed_seq_len.*not supported"),
    (T, "quantization_config", {"quant_method": "bitsandbytes"}, "quantization_config.*not supported"),
    (T, "in_channels", 8, "in_channels"),
    (T, "text_dim", 32, "d_model 24.*text_dim 32"),
    (V, "z_dim", 8, "z_dim is 8"),
    (V, "latents_mean", [0.0] * 15, "as many numbers.*15"),
    (V, "latents_std", [1.0] * 15 + [0.0], "above 0"),
    (V, "latents_std", [1.0] * 15 + ["1"], "list of finite numbers"),
    (V, "temperal_downsample", [True, True], "3 are needed"),
    (V, "temperal_downsample", [True, True, True], "two must be true"),
    (V, "temperal_downsample", [False, False, True], "two must be true"),
    (V, "scale_factor_spatial", 16, "16 contradicts the network, whose factor is 8"),
    (V, "scale_factor_temporal", 8, "8 contradicts the network, whose factor is 4"),
    (V, "patch_size", 2, "in_channels is 3; RGB with patch_size 2 needs 12"),
    (V, "in_channels", 4, "RGB"),
    (V, "dim_mult", [], "list of whole numbers"),
    (V, "dim_mult", [1, 2, 2, 1.5], "list of whole numbers"),
    (V, "attn_scales", "all", "list of finite numbers"),
    (V, "clip_output", True, "clip_output.*not supported"),
    (E, "model_type", "t5", "supported: umt5"),
    (E, "feed_forward_proj", "tanh", "tanh.*gated-gelu"),
    (E, "feed_forward_proj", "gated-gated-gelu", "supported"),
    (E, "dense_act_fn", "relu", "gated-gelu means gelu_new"),
    (E, "is_gated_act", False, "means true"),
    (E, "is_decoder", True, "is_decoder"),
    (E, "relative_attention_max_distance", 8, "quarter"),
    (E, "layer_norm_epsilon", "1e-6", "finite number"),
    (E, "vocab_size", 50, "vocab_size is 50"),
    (S, "_class_name", "UniPCMultistepScheduler", "FlowMapEulerDiscreteScheduler"),
    (S, "shift", 0, "above 0"),
    (S, "num_train_timesteps", 0, "at least 1"),
    (S, "use_dynamic_shifting", True, "use_dynamic_shifting.*not supported"),
]


@pytest.mark.parametrize(("file", "key", "value", "said"), REFUSED_VALUES, ids=lambda value: str(value)[:24])
def test_value_is_refused(copy, file, key, value, said):
    values = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps({**values, key: value}))
    message = refusal(copy)
    assert re.search(said, message), message
    assert str(copy) in message


def test_residual_shortcuts_need_whole_groups(tmp_path):
    path = make_checkpoint(tmp_path / "residual", seed=1, **CONFIGURATIONS["residual_vae"])
    values = json.loads((path / V).read_text())
    (path / V).write_text(json.dumps({**values, "dim_mult": [1, 5, 5, 5]}))
    assert "is_residual needs 60 to divide" in refusal(path)


REQUIRED_KEYS = [
    *((INDEX, key) for key in ("_class_name", "transformer", "vae", "text_encoder", "scheduler", "tokenizer")),
    *((T, key) for key in ("patch_size", "num_attention_heads", "attention_head_dim", "in_channels", "text_dim")),
    *((T, key) for key in ("freq_dim", "ffn_dim", "num_layers", "cross_attn_norm", "eps", "gate_value")),
    (T, "deltatime_type"),
    *((V, key) for key in ("base_dim", "z_dim", "dim_mult", "num_res_blocks", "temperal_downsample")),
    *((V, key) for key in ("latents_mean", "latents_std")),
    *((E, key) for key in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "feed_forward_proj")),
    *((E, key) for key in ("relative_attention_num_buckets", "layer_norm_epsilon")),
    *((S, key) for key in ("shift", "num_train_timesteps")),
]


@pytest.mark.parametrize(("file", "key"), REQUIRED_KEYS)
def test_missing_key_is_named(copy, file, key):
    values = json.loads((copy / file).read_text())
    del values[key]
    (copy / file).write_text(json.dumps(values))
    assert f"{copy / file} has no key {key!r}" in refusal(copy)


@pytest.mark.parametrize("file", [INDEX, T, V, E, S, "tokenizer/tokenizer.json"])
@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "is empty"), (b"{", "not valid JSON"), (b"[1]", "JSON list, not an object"), (b"\xff\xfe", "damaged")],
)
def test_damaged_json(copy, file, content, said):
    (copy / file).write_bytes(content)
    message = refusal(copy)
    assert str(copy / file) in message and said in message


@pytest.mark.parametrize("file", [T, V, E, S, WEIGHTS, "text_encoder/model.safetensors", "tokenizer/tokenizer.json"])
def test_missing_file(copy, file):
    (copy / file).unlink()
    assert Path(file).name in refusal(copy)


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_truncated_weights(copy, keep):
    data = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(data[:keep])
    message = refusal(copy)
    assert str(copy / WEIGHTS) in message and "truncated or damaged" in message and "again" in message


def test_lfs_pointer(copy):
    (copy / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345678901\n")
    assert "git lfs pull" in refusal(copy)


class _Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickled file was opened",))


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.pt", "anything.ckpt"])
def test_pickles_are_never_opened(copy, name):
    (copy / WEIGHTS).unlink()
    (copy / "transformer" / name).write_bytes(pickle.dumps(_Bomb()))
    message = refusal(copy)
    assert name in message and "pickled" in message and "safe_serialization=True" in message


def change(file: Path, **tensors: torch.Tensor | None) -> None:
    """Rewrite a safetensors file with tensors replaced, added, or (None) left out. Dots are written as ``__``."""
    values = load_file(file)
    values.update({name.replace("__", "."): value for name, value in tensors.items()})
    save_file({name: value for name, value in values.items() if value is not None}, file)


def test_wrong_shape(copy):
    change(copy / WEIGHTS, blocks__0__attn1__to_q__weight=torch.zeros(32, 31))
    message = refusal(copy)
    assert "'blocks.0.attn1.to_q.weight' has shape [32, 31], not [32, 32]" in message


def test_missing_and_unknown_tensors(copy):
    change(copy / WEIGHTS, proj_out__bias=None)
    assert "'proj_out.bias' [64] is missing" in refusal(copy)
    change(copy / WEIGHTS, proj_out__bias=torch.zeros(64), far_patch_embedding__bias=torch.zeros(2))
    assert "'far_patch_embedding.bias' [2] is not part of the network" in refusal(copy)


def test_configuration_that_contradicts_the_weights_counts_the_rest(copy):
    values = json.loads((copy / T).read_text())
    (copy / T).write_text(json.dumps({**values, "num_layers": 3}))
    message = refusal(copy)
    assert "blocks.2." in message and "(and 26 more such)" in message


def test_quantised_tensors(copy):
    change(copy / WEIGHTS, proj_out__bias=torch.zeros(64, dtype=torch.int8))
    assert "'proj_out.bias' is stored as I8; supported: F64, F32, F16, BF16" in refusal(copy)


def test_tied_tensors_that_differ(copy):
    file = copy / "text_encoder/model.safetensors"
    shared = load_file(file)["shared.weight"]
    change(file, encoder__embed_tokens__weight=shared.clone())
    load_checkpoint(copy)
    change(file, encoder__embed_tokens__weight=shared + 1)
    assert "'encoder.embed_tokens.weight' and 'shared.weight' stand for one" in refusal(copy)


def test_sharded_damage(tmp_path):
    path = make_checkpoint(tmp_path / "sharded", seed=1, max_shard_size="30KB")
    index = path / "transformer/diffusion_pytorch_model.safetensors.index.json"
    original = json.loads(index.read_text())
    shard = sorted((path / "transformer").glob("*-00002-of-*.safetensors"))[0]

    shard.rename(shard.with_suffix(".away"))
    assert f"{shard} is missing" in refusal(path)
    shard.with_suffix(".away").rename(shard)

    index.write_text(json.dumps({**original, "weight_map": {**original["weight_map"], "extra": shard.name}}))
    assert "says that tensor 'extra' is in" in refusal(path)
    for name in ("../../vae/diffusion_pytorch_model.safetensors", "/etc/passwd", "weights.bin"):
        index.write_text(json.dumps({"weight_map": {"extra": name}}))
        assert f"{name!r}, which is no safetensors file beside it" in refusal(path)
    index.write_text(json.dumps({"metadata": {}}))
    assert "no weight_map" in refusal(path)


def test_tokenizer(copy):
    tokenizer = copy / "tokenizer/tokenizer.json"
    values = json.loads(tokenizer.read_text())
    for damage in ({"model": {}}, {"model": {"vocab": {"a": "1"}}}, {"added_tokens": [{"content": "</s>"}]}):
        tokenizer.write_text(json.dumps({**values, **damage}))
        assert "no tokenizer" in refusal(copy)
    tokenizer.unlink()
    (copy / "tokenizer/spiece.model").write_bytes(b"\n")
    message = refusal(copy)
    assert "no tokenizer.json" in message and "AutoTokenizer" in message and "save_pretrained" in message


def test_no_checkpoint_at_all(base, tmp_path):
    assert "has no model_index.json" in refusal(tmp_path)
    assert f"give its parent directory, {base.resolve()}" in refusal(base / "transformer")
    assert "is a file" in refusal(base / WEIGHTS)
    for missing in (tmp_path / "nowhere", str(tmp_path / "nowhere"), "./nowhere/at/all", "~/no such place", "nowhere"):
        message = refusal(missing)
        assert "there is no directory" in message and str(missing) in message
