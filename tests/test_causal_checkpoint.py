"""What a causal checkpoint's files say: read as diffusers and NVlabs write them, refused where it cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.causal import CAUSAL_CONFIGURATIONS
from support.checkpoints import make_checkpoint

from anyflow_rt.build_plan import BuildOptions, plan_build, preview
from anyflow_rt.engines.architecture import Architecture, CausalConfig
from anyflow_rt.engines.checkpoint import load_checkpoint
from anyflow_rt.engines.export import CAUSAL_COMPONENT_NAMES, COMPONENT_NAMES
from anyflow_rt.errors import CheckpointError


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("causal") / "c", seed=3, **CAUSAL_CONFIGURATIONS["released_rule"][1])


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(base, tmp_path / "copy")


def edit(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in {**values, **changes}.items() if value != "drop"}))


def test_the_configuration_and_its_tensors(base: Path) -> None:
    """Loading holds every tensor's name and shape against the configuration's."""
    architecture = load_checkpoint(base).architecture
    assert architecture.pipeline == "AnyFlowFARPipeline"
    assert architecture.causal == CausalConfig((1, 3, 3, 2), 3, (1, 4, 4))
    assert Architecture.from_dict(json.loads(json.dumps(architecture.to_dict()))) == architecture


def test_nvlabs_naming_is_accepted(base: Path, copy: Path) -> None:
    edit(
        copy / "model_index.json",
        _class_name="FARWanAnyFlowPipeline",
        transformer=["far.models.transformer_far_wan_model", "FAR_Wan_Transformer3DModel"],
    )
    edit(copy / "transformer/config.json", _class_name="FAR_Wan_Transformer3DModel", init_far_model=True)
    assert load_checkpoint(copy).architecture.causal == load_checkpoint(base).architecture.causal


def test_a_build_makes_the_causal_components(base: Path, tmp_path: Path) -> None:
    size = {"num_frames": 33, "height": 32, "width": 48}
    found = preview(BuildOptions(checkpoint=str(base), out=tmp_path / "bundle", **size))
    assert found.components == (*COMPONENT_NAMES, *CAUSAL_COMPONENT_NAMES)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"full_chunk_limit": 1}, "full_chunk_limit is 1; a whole number of at least 2"),
        ({"full_chunk_limit": "drop"}, "has no key 'full_chunk_limit'"),
        ({"chunk_partition": []}, "chunk_partition"),
        ({"chunk_partition": [1, 0, 3]}, "chunk_partition"),
        ({"compressed_patch_size": [1, 3, 3]}, r"\[1, 3, 3\]; supported: \[1, q, q\] with q a multiple of .* 2"),
        ({"compressed_patch_size": [2, 4, 4]}, "supported"),
        ({"compressed_patch_size": [1, 4, 8]}, "supported"),
        ({"compressed_patch_size": [1, 8, 8]}, "far_patch_embedding.weight"),
        ({"init_far_model": False}, "the pipeline is causal"),
        ({"_class_name": "AnyFlowTransformer3DModel"}, "AnyFlowFARTransformer3DModel"),
    ],
    ids=str,
)
def test_refusals(copy: Path, changes: dict, said: str) -> None:
    edit(copy / "transformer/config.json", **changes)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_checkpoint(copy)
    assert "\n" not in str(caught.value)


def test_a_mistyped_name_is_told_the_shipped_ones() -> None:
    with pytest.raises(CheckpointError, match=r"no directory 'shapes-causl'.* checkpoints are shapes, shapes-causal"):
        plan_build(BuildOptions(checkpoint="shapes-causl"))


@pytest.mark.parametrize("engine", ["triton", "tensorrt_rtx"])
def test_gpu_engines_are_planned(engine: str, base: Path, tmp_path: Path) -> None:
    options = BuildOptions(checkpoint=str(base), out=tmp_path / "bundle", targets=("sm_89",), engine=engine)
    assert [str(each) for each in plan_build(options).wanted] == [f"sm_89 {engine} bf16"]
