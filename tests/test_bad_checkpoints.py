"""Checkpoints that no build takes: one line that names the value and the mend, exit code 1, and nothing made."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bundles import random_bundle
from support.commands import fails


def edit(file: str, **values: object) -> Callable[[Path], None]:
    def change(checkpoint: Path) -> None:
        old = json.loads((checkpoint / file).read_text())
        new = {key: value for key, value in {**old, **values}.items() if value is not None}
        (checkpoint / file).write_text(json.dumps(new))

    return change


def only_a_pickle(checkpoint: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(checkpoint / "unpickled"),)

    import pickle

    folder = checkpoint / "transformer"
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Trap()))


WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / WEIGHTS).unlink(), ["diffusion_pytorch_model.safetensors", "download"]),
        (lambda folder: os.truncate(folder / WEIGHTS, 5000), ["truncated", "download"]),
        (lambda folder: os.truncate(folder / WEIGHTS, 0), ["truncated"]),
        (edit("transformer/config.json", num_layers=None), ["num_layers"]),
        (edit("transformer/config.json", ffn_dim=64), ["ffn"]),
        (edit("transformer/config.json", surprise=1), ["surprise"]),
        (edit("transformer/config.json", _class_name="OtherTransformer"), ["OtherTransformer"]),
        (edit("model_index.json", _class_name="OtherPipeline"), ["OtherPipeline"]),
        (edit("vae/config.json", z_dim=12), ["12"]),
        (lambda folder: (folder / "model_index.json").unlink(), ["model_index.json"]),
        (lambda folder: (folder / "tokenizer/tokenizer.json").write_text("{"), ["tokenizer.json"]),
        (only_a_pickle, ["diffusion_pytorch_model.bin", "never read"]),
        (shutil.rmtree, ["no directory"]),
    ],
)
def test_checkpoints(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], object],
    said: list[str],
) -> None:
    checkpoint = Path(shutil.copytree(random_bundle("base").checkpoint, tmp_path / "checkpoint"))
    damage(checkpoint)
    for flag in ("--onnx-only", "--dry-run"):
        fails(capsys, ["build", "--ckpt", str(checkpoint), "--out", str(tmp_path / "b"), flag], *said, code=1)
    assert not (tmp_path / "b").exists()
    assert not (checkpoint / "unpickled").exists()
