"""The prompt encoder against transformers' UMT5EncoderModel: as a module, and as ONNX at any prompt length."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.checkpoints import randomise
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

from anyflow_rt.engines.architecture import (
    Architecture,
    SchedulerConfig,
    TextEncoderConfig,
    TransformerConfig,
    VaeConfig,
)
from anyflow_rt.engines.export import text_encoder
from anyflow_rt.engines.export.components import export_component
from anyflow_rt.engines.openvino_package import core
from anyflow_rt.errors import CheckpointError

BASE: dict[str, Any] = {"vocab_size": 60, "d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 3}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "gated": {},
    "plain": {"feed_forward_proj": "relu", "layer_norm_epsilon": 1e-2},
    "few_buckets": {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "num_heads": 1},
    "gated_silu": {"feed_forward_proj": "gated-silu", "d_kv": 12},
}

Case = tuple[UMT5EncoderModel, TextEncoderConfig]


def make_case(name: str) -> Case:
    values = BASE | CONFIGURATIONS[name]
    reference = UMT5EncoderModel(UMT5Config(**values)).eval().requires_grad_(False)
    randomise(reference, torch.Generator().manual_seed(len(name)))
    return reference, TextEncoderConfig(**values)


def prompts(lengths: tuple[int, ...], padded: int) -> tuple[Tensor, Tensor]:
    """Random token ids and the mask of prompts of the given lengths."""
    generator = torch.Generator().manual_seed(padded)
    mask = (torch.arange(padded)[None, :] < torch.tensor(lengths)[:, None]).long()
    return torch.randint(2, BASE["vocab_size"], (len(lengths), padded), generator=generator) * mask, mask


def wanted(reference: UMT5EncoderModel, ids: Tensor, mask: Tensor) -> np.ndarray:
    """The pipeline zeroes what lies past the mask."""
    with torch.no_grad():
        return (reference(ids, mask).last_hidden_state * mask[:, :, None]).numpy()


def assert_embeddings(got: np.ndarray, want: np.ndarray) -> None:
    assert got.dtype == np.float32 and got.shape == want.shape
    assert np.abs(want).max() > 0.5, "an embedding of nothing would prove nothing"
    assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)
    assert not got[want == 0].any()


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize(("lengths", "padded"), [((7,), 7), ((1,), 1), ((30, 4, 1), 30), ((5, 150), 160)])
@torch.no_grad()
def test_module_equals_the_reference(name: str, lengths: tuple[int, ...], padded: int) -> None:
    reference, config = make_case(name)
    ids, mask = prompts(lengths, padded)
    module = text_encoder.build(config, reference.state_dict())
    assert_embeddings(module(ids, mask).numpy(), wanted(reference, ids, mask))


@torch.no_grad()
def test_a_prompt_is_encoded_alike_however_far_it_is_padded() -> None:
    reference, config = make_case("gated")
    module = text_encoder.build(config, reference.state_dict())
    ids, mask = prompts((6,), 40)
    short = module(ids[:, :6], mask[:, :6]).numpy()
    np.testing.assert_allclose(module(ids, mask)[:, :6].numpy(), short, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (16, 20), (8, 500), (64, 40)])
def test_every_distance_falls_into_the_bucket_of_the_reference(buckets: int, distance: int) -> None:
    values = BASE | {"relative_attention_num_buckets": buckets, "relative_attention_max_distance": distance}
    reference = UMT5EncoderModel(UMT5Config(**values))
    attention = reference.encoder.block[0].layer[0].SelfAttention
    mine = text_encoder.relative_position_buckets(TextEncoderConfig(**values))
    distances = torch.arange(-3 * distance, 3 * distance + 1)
    clipped = distances.clamp(-distance, distance) + distance
    assert torch.equal(mine[clipped], attention._relative_position_bucket(distances))


@pytest.fixture(scope="module", params=["gated", "few_buckets"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Path]:
    case, path = make_case(request.param), tmp_path_factory.mktemp("text") / "text_encoder.onnx"
    export(case[1], case[0].state_dict(), path)
    return case, path


def export(config: TextEncoderConfig, weights: dict[str, Tensor], path: Path) -> None:
    architecture = Architecture("AnyFlowPipeline", TransformerConfig(), VaeConfig(), config, SchedulerConfig())
    export_component("text_encoder", architecture, weights, path)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_graph_equals_the_reference_at_any_length(exported: tuple[Case, Path], engine: str) -> None:
    (reference, _), path = exported
    if engine == "onnxruntime":
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

        def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            return session.run(None, {"input_ids": ids, "attention_mask": mask})[0]

    else:
        pytest.importorskip("openvino")
        compiled = core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

        def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            return compiled([ids, mask])[0].copy()

    for lengths, padded in (((7,), 7), ((1,), 1), ((2, 1), 2), ((30, 4, 1), 30), ((5, 150), 160)):
        ids, mask = prompts(lengths, padded)
        assert_embeddings(run(ids.numpy(), mask.numpy()), wanted(reference, ids, mask))


def test_weights_are_exported_in_the_dtype_they_are_stored_in(tmp_path: Path) -> None:
    # Large enough for the exporter not to fold the widening into the weights.
    values = BASE | {"d_model": 160, "d_ff": 200, "num_heads": 20, "num_layers": 1, "vocab_size": 400}
    reference, config = UMT5EncoderModel(UMT5Config(**values)).eval().requires_grad_(False), TextEncoderConfig(**values)
    randomise(reference, torch.Generator().manual_seed(0))
    stored = {name: value.to(torch.bfloat16) for name, value in reference.state_dict().items()}
    reference.load_state_dict({name: value.float() for name, value in stored.items()})
    path = tmp_path / "text_encoder.onnx"
    export(config, stored, path)
    large = [tensor for tensor in onnx.load(path).graph.initializer if np.prod(tensor.dims) >= 160**2]
    assert len(large) == 5 and {tensor.data_type for tensor in large} == {onnx.TensorProto.BFLOAT16}
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ids, mask = prompts((9, 3), 9)
    got = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
    assert_embeddings(got, wanted(reference, ids, mask))


def test_either_name_of_the_tied_embedding_will_do() -> None:
    reference, config = make_case("gated")
    weights = dict(reference.state_dict())
    shared = weights.pop("shared.weight")
    weights["encoder.embed_tokens.weight"] = shared
    assert torch.equal(text_encoder.build(config, weights).embedding, shared)


def test_an_unknown_activation_is_refused_by_name() -> None:
    reference, config = make_case("gated")
    values = {field.name: getattr(config, field.name) for field in fields(config)} | {"feed_forward_proj": "gated-mish"}
    with pytest.raises(CheckpointError, match="gated-mish"):
        text_encoder.build(TextEncoderConfig(**values), reference.state_dict())
