"""A good checkpoint is read as the reference reads it: configuration, tensors, layouts, identity."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.checkpoints import CONFIGURATIONS, make_checkpoint
from support.sensitivity import load_reference

from anyflow_rt.engines.architecture import Architecture
from anyflow_rt.engines.checkpoint import NETWORKS, load_checkpoint
from anyflow_rt.engines.checkpoint_config import ACTIVATIONS, read_text_encoder, read_vae
from anyflow_rt.engines.checkpoint_file import ConfigFile
from anyflow_rt.engines.checkpoint_shapes import network_tensors
from anyflow_rt.engines.export.text_encoder import _ACTIVATIONS
from anyflow_rt.errors import CheckpointError, UsageError


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("base"), seed=11)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configuration_and_tensors_are_the_references(name, tmp_path):
    path = make_checkpoint(tmp_path / name, seed=3, **CONFIGURATIONS[name])
    checkpoint = load_checkpoint(path)
    reference = load_reference(path)
    architecture = checkpoint.architecture
    for part in (*NETWORKS, "scheduler"):
        ours, theirs = getattr(architecture, part), getattr(reference, part).config
        for key, value in vars(ours).items():
            wanted = getattr(theirs, key)
            assert value == (tuple(wanted) if isinstance(wanted, list) else wanted), (part, key)
    for component in NETWORKS:
        state = getattr(reference, component).state_dict()
        weights = checkpoint.weights(component)
        tensors = network_tensors(architecture, component)
        wanted = {
            key: tuple(value.shape)
            for key, value in state.items()
            if key not in tensors.tied and not key.startswith(tensors.ignored)
        }
        assert dict(tensors.required) == wanted
        for key in wanted:
            assert torch.equal(weights[key], state[key]), key
    assert Architecture.from_dict(json.loads(json.dumps(architecture.to_dict()))) == architecture


def test_activations_are_those_the_exporter_has():
    assert set(ACTIVATIONS) == set(_ACTIVATIONS)


def test_released_defaults_are_accepted(base, tmp_path):
    """Keys that older diffusers did not write take its defaults; null out_channels means in_channels."""
    path = shutil.copytree(base, tmp_path / "old")
    _drop(path / "vae/config.json", "decoder_base_dim", "is_residual", "in_channels", "out_channels", "patch_size")
    _drop(path / "vae/config.json", "scale_factor_temporal", "scale_factor_spatial", "attn_scales")
    _drop(path / "transformer/config.json", "image_dim", "out_channels")
    _drop(path / "text_encoder/config.json", "relative_attention_max_distance", "pad_token_id", "dense_act_fn")
    assert load_checkpoint(path).architecture == load_checkpoint(base).architecture


def test_configuration_files_of_wans_size_are_accepted(tmp_path):
    """Keys as in the files that Wan 2.1 and UMT5-XXL were published with."""
    text = {
        "architectures": ["UMT5EncoderModel"], "classifier_dropout": 0.0, "d_ff": 10240, "d_kv": 64, "d_model": 4096,
        "decoder_start_token_id": 0, "dense_act_fn": "gelu_new", "dropout_rate": 0.1, "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu", "initializer_factor": 1.0, "is_encoder_decoder": True,
        "is_gated_act": True, "layer_norm_epsilon": 1e-06, "model_type": "umt5", "num_decoder_layers": 24,
        "num_heads": 64, "num_layers": 24, "output_past": True, "pad_token_id": 0,
        "relative_attention_max_distance": 128, "relative_attention_num_buckets": 32, "scalable_attention": True,
        "tie_word_embeddings": False, "tokenizer_class": "T5Tokenizer", "torch_dtype": "bfloat16",
        "transformers_version": "4.48.0.dev0", "use_cache": True, "vocab_size": 256384,
    }  # fmt: skip
    vae = {
        "_class_name": "AutoencoderKLWan", "_diffusers_version": "0.33.0.dev0", "attn_scales": [], "base_dim": 96,
        "dim_mult": [1, 2, 4, 4], "dropout": 0.0, "latents_mean": [0.1] * 16, "latents_std": [1.5] * 16,
        "num_res_blocks": 2, "temperal_downsample": [False, True, True], "z_dim": 16,
    }  # fmt: skip
    for name, values in (("text", text), ("vae", vae)):
        (tmp_path / name).write_text(json.dumps(values))
    assert read_text_encoder(ConfigFile(tmp_path / "text")).num_heads == 64
    assert read_vae(ConfigFile(tmp_path / "vae")).spatial_factor == 8


def test_nvlabs_naming_is_accepted(base, tmp_path):
    path = shutil.copytree(base, tmp_path / "nvlabs")
    _edit(
        path / "model_index.json",
        _class_name="WanAnyFlowPipeline",
        transformer=["far.models.transformer_far_wan_model", "FAR_Wan_Transformer3DModel"],
        scheduler=["far.schedulers.scheduling_flowmap_euler_discrete", "FlowMapDiscreteScheduler"],
    )
    _edit(
        path / "transformer/config.json",
        _class_name="FAR_Wan_Transformer3DModel",
        init_flowmap_model=True,
        init_far_model=False,
        qk_norm="rms_norm_across_heads",
        added_kv_proj_dim=None,
        chunk_partition=[1, 3, 3],
        compressed_patch_size=[1, 4, 4],
        full_chunk_limit=3,
    )
    _edit(path / "scheduler/scheduler_config.json", _class_name="FlowMapDiscreteScheduler", weight_type="beta08")
    ours = load_checkpoint(path)
    assert ours.architecture.pipeline == "WanAnyFlowPipeline"
    assert ours.architecture.transformer == load_checkpoint(base).architecture.transformer
    assert ours.content_hash() != load_checkpoint(base).content_hash()


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_and_variants_give_the_same_tensors(base, tmp_path, variant):
    path = make_checkpoint(tmp_path / "sharded", seed=11, variant=variant, max_shard_size="30KB")
    assert list(path.glob("transformer/*-00002-of-*.safetensors"))
    sharded, whole = load_checkpoint(path), load_checkpoint(base)
    for component in NETWORKS:
        one, other = whole.weights(component), sharded.weights(component)
        assert one.names() == other.names() == list(one)
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert sharded.content_hash() != whole.content_hash()


def test_a_variant_is_read_only_where_there_is_no_plain_file(base, tmp_path):
    path = shutil.copytree(base, tmp_path / "both")
    plain = path / "transformer/diffusion_pytorch_model.safetensors"
    (path / "transformer/diffusion_pytorch_model.fp16.safetensors").write_bytes(b"never opened")
    assert dict(load_checkpoint(path).weight_files)["transformer"] == (plain,)
    plain.rename(path / "transformer/diffusion_pytorch_model.bf16.safetensors")
    with pytest.raises(CheckpointError, match=r"bf16.*fp16.*remove all but one"):
        load_checkpoint(path)
    (path / "transformer/diffusion_pytorch_model.fp16.safetensors").unlink()
    assert load_checkpoint(path).weights("transformer").names() == load_checkpoint(base).weights("transformer").names()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stored_dtype_is_kept(tmp_path, dtype):
    weights = load_checkpoint(make_checkpoint(tmp_path / "half", seed=2, dtype=dtype)).weights("text_encoder")
    assert weights.dtype("shared.weight") == weights["shared.weight"].dtype == dtype
    assert weights.shape("shared.weight") == tuple(weights["shared.weight"].shape)


def test_the_embedding_goes_by_either_of_its_names(base, tmp_path):
    from safetensors.torch import load_file, save_file

    path = shutil.copytree(base, tmp_path / "tied")
    file = path / "text_encoder/model.safetensors"
    tensors = load_file(file)
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    tensors["decoder.block.0.layer.0.layer_norm.weight"] = torch.ones(3)
    tensors["lm_head.weight"] = torch.ones(3)
    save_file(tensors, file)
    weights = load_checkpoint(path).weights("text_encoder")
    assert torch.equal(weights["shared.weight"], load_checkpoint(base).weights("text_encoder")["shared.weight"])
    assert "lm_head.weight" not in weights.names()


def test_content_hash_is_the_contents(base, tmp_path):
    original = load_checkpoint(base).content_hash()
    path = shutil.copytree(base, tmp_path / "copy")
    (path / "README.md").write_text("not part of it")
    assert load_checkpoint(path).content_hash() == original
    seen = {original}
    for name in ("scheduler/scheduler_config.json", "tokenizer/tokenizer.json", "vae/config.json"):
        file = path / name
        file.write_text(file.read_text() + "\n")
        seen.add(load_checkpoint(path).content_hash())
    file = path / "vae/diffusion_pytorch_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    seen.add(load_checkpoint(path).content_hash())
    assert len(seen) == 5


def test_hash_of_a_large_file_is_remembered_until_it_changes(tmp_path, monkeypatch):
    from anyflow_rt.engines import checkpoint_hash

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(checkpoint_hash, "REMEMBERED_BYTES", 4)
    read = []
    digest = checkpoint_hash._digest
    monkeypatch.setattr(checkpoint_hash, "_digest", lambda path: read.append(path) or digest(path))
    file = tmp_path / "weights"
    file.write_bytes(b"first")
    first = [checkpoint_hash.file_hash(file) for _ in range(3)]
    assert len(set(first)) == 1 and len(read) == 1
    file.write_bytes(b"other")
    assert checkpoint_hash.file_hash(file) != first[0]
    for damaged in (tmp_path / "cache").rglob("*.json"):
        damaged.write_text("{")
    assert checkpoint_hash.file_hash(file) == digest(file)


def test_where_a_checkpoint_is(base, tmp_path, monkeypatch):
    checkpoint = load_checkpoint(str(base))
    assert checkpoint.id == str(base) and checkpoint.path == base.resolve() and checkpoint.revision is None
    assert checkpoint.tokenizer_file == base.resolve() / "tokenizer/tokenizer.json"
    assert checkpoint.weight_bytes == sum(file.stat().st_size for file in base.rglob("*.safetensors"))
    monkeypatch.chdir(base.parent)
    assert load_checkpoint(base.name).path == base.resolve()
    with pytest.raises(UsageError, match="'v1' is for hub ids"):
        load_checkpoint(base, revision="v1")
    with pytest.raises(UsageError, match=r"no network 'tokenizer'; there are: transformer, vae, text_encoder"):
        checkpoint.weights("tokenizer")


def test_the_shipped_checkpoint_loads():
    import anyflow_rt

    checkpoint = load_checkpoint(Path(anyflow_rt.__file__).parent / "data" / "shapes")
    assert checkpoint.weight_bytes < 20e6


def _edit(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def _drop(file: Path, *keys: str) -> None:
    values = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in values.items() if key not in keys}))
