"""Checkpoints that share parts: read as if they were whole, in whatever reads checkpoints, and refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.causal import CAUSAL_CONFIGURATIONS
from support.checkpoints import make_checkpoint

from anyflow_rt.build_plan import BuildOptions, bundle_path
from anyflow_rt.defaults import default_video
from anyflow_rt.engines.checkpoint import load_checkpoint
from anyflow_rt.engines.checkpoint_parts import OWN_FILE, whole_directory
from anyflow_rt.engines.locations import default_bundle_path
from anyflow_rt.errors import CheckpointError
from anyflow_rt.shipped import CAUSAL_CHECKPOINT, SHAPES_CHECKPOINT

SHARED = ("vae", "text_encoder", "tokenizer")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A whole causal checkpoint, and one that shares all but its transformer with a copy of it."""
    folder = tmp_path_factory.mktemp("parts")
    whole = make_checkpoint(folder / "whole", seed=3, **CAUSAL_CONFIGURATIONS["released_rule"][1])
    parted = Path(shutil.copytree(whole, folder / "parted"))
    for name in SHARED:
        shutil.rmtree(parted / name)
    (parted / OWN_FILE).write_text(json.dumps({"shared": "../whole", "num_frames": 33}))
    return whole, parted


def test_a_parted_checkpoint_is_the_whole_one(pair: tuple[Path, Path]) -> None:
    whole, parted = map(load_checkpoint, pair)
    assert parted.architecture == whole.architecture and parted.content_hash() == whole.content_hash()
    assert {name: [path.name for path in paths] for name, paths in parted.weight_files} == {
        name: [path.name for path in paths] for name, paths in whole.weight_files
    }
    assert default_video(parted).num_frames == 33


def test_the_hash_is_of_what_is_shared_too(pair: tuple[Path, Path], tmp_path: Path) -> None:
    for path in pair:
        shutil.copytree(path, tmp_path / path.name)
    before = load_checkpoint(tmp_path / "parted").content_hash()
    shutil.copytree(make_checkpoint(tmp_path / "other", seed=4) / "vae", tmp_path / "whole" / "vae", dirs_exist_ok=True)
    assert load_checkpoint(tmp_path / "parted").content_hash() != before


def test_diffusers_reads_the_whole_directory(pair: tuple[Path, Path]) -> None:
    whole, parted = pair
    with whole_directory(whole) as found:
        assert found == whole
    with whole_directory(parted) as found:
        names = {path.name for path in found.iterdir()}
        assert names == {path.name for path in parted.iterdir()} | set(SHARED)
        assert (found / "vae" / "config.json").read_text() == (whole / "vae" / "config.json").read_text()
    assert not found.exists() and (whole / "vae" / "config.json").is_file()


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ('{"shared": "../nowhere"}', "holds no checkpoint (no model_index.json)"),
        ('{"shared": 3}', "shared is 3; give the path of a checkpoint"),
        ('{"shared": ""}', "shared is ''"),
        ("{", "is not valid JSON"),
        ("{}", "vae/config.json is missing"),
    ],
)
def test_refusals(pair: tuple[Path, Path], tmp_path: Path, own: str, said: str) -> None:
    parted = Path(shutil.copytree(pair[1], tmp_path / "parted"))
    (parted / OWN_FILE).write_text(own)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(parted)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_the_shipped_causal_checkpoint() -> None:
    """At most 10 MB more; by its name wherever a checkpoint is named."""
    assert sum(path.stat().st_size for path in CAUSAL_CHECKPOINT.rglob("*") if path.is_file()) <= 10e6
    causal, other = load_checkpoint(CAUSAL_CHECKPOINT), load_checkpoint(SHAPES_CHECKPOINT)
    assert causal.architecture.causal is not None
    assert causal.architecture.vae == other.architecture.vae
    assert default_video(causal) == default_video(other)
    wanted = default_bundle_path(CAUSAL_CHECKPOINT)
    assert bundle_path(BuildOptions(checkpoint="shapes-causal")) == wanted
    assert bundle_path(BuildOptions(checkpoint="shapes")) == default_bundle_path(SHAPES_CHECKPOINT)


def test_a_directory_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shapes-causal").mkdir()
    monkeypatch.chdir(tmp_path)
    assert bundle_path(BuildOptions(checkpoint="shapes-causal")) == default_bundle_path(tmp_path / "shapes-causal")
