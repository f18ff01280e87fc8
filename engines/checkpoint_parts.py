"""Where the parts of a checkpoint are: in its directory, or in that of another one which it shares parts with.

Two checkpoints of one family often have the same VAE, text encoder and tokenizer. The directory of the second need not
hold them again: its ``anyflow_rt.json`` says ``{"shared": "../first"}``, and every part (a folder of the diffusers
layout) that it lacks is taken from there. diffusers itself cannot follow that; ``whole_directory`` is for it.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from anyflow_rt.engines.checkpoint_file import read_json
from anyflow_rt.errors import CheckpointError

OWN_FILE = "anyflow_rt.json"
"""What this package knows of a checkpoint beside the diffusers layout."""
SHARED = "shared"


def located(folder: Path, name: str) -> Path:
    """The path of ``name``, such as ``vae`` or ``vae/config.json``: below ``folder``, or below the checkpoint that it
    shares parts with where it has no such part itself.

    Raises CheckpointError where that checkpoint is named by no path, or is not there.
    """
    part = name.split("/")[0]
    if (folder / part).exists():
        return folder / name
    other = shared_with(folder)
    return (folder if other is None else other) / name


def shared_with(folder: Path) -> Path | None:
    """The directory of the checkpoint that the one in ``folder`` shares parts with; None where it is whole."""
    own = folder / OWN_FILE
    place = read_json(own).get(SHARED) if own.is_file() else None
    if place is None:
        return None
    if not isinstance(place, str) or not place:
        raise CheckpointError(f"{own} says {SHARED} is {place!r}; give the path of a checkpoint, relative to {folder}")
    other = (folder / place).resolve()
    if not (other / "model_index.json").is_file():
        raise CheckpointError(
            f"{own} shares parts with {place}, but {other} holds no checkpoint (no model_index.json); put it there or "
            "mend the path"
        )
    return other


@contextlib.contextmanager
def whole_directory(folder: Path) -> Iterator[Path]:
    """A directory in the plain diffusers layout: ``folder`` itself where it is whole, else links to all parts, for as
    long as the context lasts."""
    other = shared_with(folder)
    if other is None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="anyflow-rt-checkpoint-") as made:
        for entry in [*folder.iterdir(), *(each for each in other.iterdir() if each.is_dir())]:
            link = Path(made) / entry.name
            if not link.exists():
                link.symlink_to(entry.resolve())
        yield Path(made)
