"""How the causal checkpoint is written beside the other: without what both have, and only where that is the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from anyflow_rt.benchmarks.shapes.recipe.export_shared import check_equal, share
from anyflow_rt.engines.checkpoint import load_checkpoint
from anyflow_rt.engines.checkpoint_parts import whole_directory
from anyflow_rt.errors import CheckpointError
from anyflow_rt.shipped import CAUSAL_CHECKPOINT, SHAPES_CHECKPOINT


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".md"
    }


def test_what_is_shared_is_left_out(tmp_path: Path) -> None:
    """Of the shipped checkpoint, made whole: the shipped one again, also over one that is there."""
    other = tmp_path / SHAPES_CHECKPOINT.name
    other.symlink_to(SHAPES_CHECKPOINT)
    with whole_directory(CAUSAL_CHECKPOINT) as whole:
        for _ in range(2):
            share(whole, tmp_path / "made", other)
    assert files(tmp_path / "made") == files(CAUSAL_CHECKPOINT)
    assert load_checkpoint(tmp_path / "made").content_hash() == load_checkpoint(CAUSAL_CHECKPOINT).content_hash()


def test_what_differs_is_not_shared(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(SHAPES_CHECKPOINT / "text_encoder", tmp_path / "text_encoder"))
    check_equal(copy, SHAPES_CHECKPOINT / "text_encoder")
    weights = load_file(copy / "model.safetensors")
    name = next(name for name, tensor in weights.items() if tensor.ndim == 2)
    save_file({**weights, name: weights[name] * 1.01}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"tensor {name} .* train with text_encoder as it ships"):
        check_equal(copy, SHAPES_CHECKPOINT / "text_encoder")
    values = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**values, "d_model": 1}))
    with pytest.raises(CheckpointError, match="text_encoder cannot be shared"):
        check_equal(copy, SHAPES_CHECKPOINT / "text_encoder")
    (copy / "config.json").unlink()
    with pytest.raises(CheckpointError, match="not to be shared"):
        check_equal(copy, SHAPES_CHECKPOINT / "text_encoder")
