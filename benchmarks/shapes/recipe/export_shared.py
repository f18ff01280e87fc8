"""Stage ``export --denoiser causal``: the causal checkpoint beside the other, whose networks it shares.

Asked for a directory, it is written whole there, as diffusers reads it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from anyflow_rt.benchmarks.shapes.recipe import causal
from anyflow_rt.engines.checkpoint_parts import OWN_FILE, SHARED
from anyflow_rt.errors import CheckpointError
from anyflow_rt.shipped import CAUSAL_CHECKPOINT, SHAPES_CHECKPOINT

OWN_PARTS = ("transformer", "scheduler")
SHARED_PARTS = ("vae", "text_encoder", "tokenizer")
TOLERANCE = 1e-3
"""Relative to a tensor's largest value: one rounding to float16."""


def export_causal(directory: Path | None) -> None:
    """Write the newest causal checkpoint: to ``directory`` whole, to the package (None) without what it shares.

    Raises CheckpointError where it was never trained, or where what would be shared is not the same.
    """
    if directory is not None:
        causal.export(directory)
        return
    with tempfile.TemporaryDirectory() as made:
        causal.export(Path(made))
        share(Path(made), CAUSAL_CHECKPOINT, SHAPES_CHECKPOINT)
    size = sum(path.stat().st_size for path in CAUSAL_CHECKPOINT.rglob("*") if path.is_file())
    print(f"{CAUSAL_CHECKPOINT}: {size / 1e6:.1f} MB, the rest shared with {SHAPES_CHECKPOINT}")


def share(whole: Path, target: Path, other: Path) -> None:
    """Write to ``target`` what the checkpoint ``whole`` does not have in common with ``other``, and that it shares the
    rest. Raises CheckpointError where the networks that it would share differ."""
    for part in SHARED_PARTS:
        check_equal(whole / part, other / part)
    target.mkdir(parents=True, exist_ok=True)
    for part in OWN_PARTS:
        shutil.rmtree(target / part, ignore_errors=True)
        shutil.copytree(whole / part, target / part)
    shutil.copy(whole / "model_index.json", target)
    own = {**json.loads((whole / OWN_FILE).read_text()), SHARED: f"../{other.name}"}
    (target / OWN_FILE).write_text(json.dumps(own) + "\n")


def check_equal(part: Path, other: Path) -> None:
    """Raise CheckpointError unless two parts are the same: configurations to the letter, weights to a rounding."""
    from safetensors.torch import load_file

    names = [sorted(path.name for path in folder.iterdir()) for folder in (part, other)]
    if names[0] != names[1]:
        raise CheckpointError(f"{part} holds {', '.join(names[0])} and {other} {', '.join(names[1])}: not to be shared")
    for name in names[0]:
        ours, theirs = part / name, other / name
        if ours.suffix != ".safetensors":
            if json.loads(ours.read_text()) != json.loads(theirs.read_text()):
                raise CheckpointError(f"{ours} is not {theirs}, so {part.name} cannot be shared")
            continue
        tensors, others = load_file(ours), load_file(theirs)
        for key in tensors.keys() | others.keys():
            if key not in tensors or key not in others or tensors[key].shape != others[key].shape:
                raise CheckpointError(f"tensor {key} of {ours} is not that of {theirs}, so {part.name} is not shared")
            far = float((tensors[key].float() - others[key].float()).abs().max())
            if not far <= TOLERANCE * float(others[key].float().abs().max()):
                raise CheckpointError(
                    f"tensor {key} of {ours} is {far:.1e} off that of {theirs}; train with {part.name} as it ships"
                )
