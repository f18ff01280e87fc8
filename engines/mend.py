"""The command that makes a bundle again, for the messages of whoever finds a part of one damaged."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from anyflow_rt.engines.manifest import MANIFEST_NAME

UNKNOWN_CHECKPOINT = "CHECKPOINT"
"""Stands in a command for what no manifest says any more."""

_DEPTH = 3
"""Folders between a bundle and its deepest files: engines/<target>/<engine>-<precision>-<profile>/."""


def build_command(
    bundle: Path, checkpoint: str = UNKNOWN_CHECKPOINT, revision: str | None = None, *, force: bool = False
) -> str:
    """The command, ready for a shell, that builds ``bundle`` of ``checkpoint``."""
    words = ["anyflow-rt", "build", "--ckpt", checkpoint]
    words += [] if revision is None else ["--revision", revision]
    return shlex.join([*words, "--out", str(bundle), *(["--force"] if force else [])])


def rebuild_command(bundle: Path, *, force: bool = False) -> str:
    """``build_command`` of the checkpoint that the manifest of ``bundle`` names, however damaged it is otherwise."""
    return build_command(bundle, *recorded_checkpoint(bundle), force=force)


def recorded_checkpoint(bundle: Path) -> tuple[str, str | None]:
    """Id and revision that the manifest of ``bundle`` names; ``UNKNOWN_CHECKPOINT`` where it is damaged."""
    try:
        recorded = json.loads((bundle / MANIFEST_NAME).read_text(encoding="utf-8"))["checkpoint"]
        checkpoint, revision = recorded["id"], recorded["revision"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return UNKNOWN_CHECKPOINT, None
    known = isinstance(checkpoint, str) and isinstance(revision, str | None)
    return (checkpoint, revision) if known else (UNKNOWN_CHECKPOINT, None)


def mend_of(file: Path) -> str:
    """What to do about a damaged file: the command for the bundle it belongs to, if it belongs to one."""
    for folder in file.absolute().parents[: _DEPTH + 1]:
        if (folder / MANIFEST_NAME).is_file():
            return f"build its bundle again with  {rebuild_command(folder, force=True)}"
    return "it belongs to no bundle, so make it again the way it was made"
