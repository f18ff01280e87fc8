"""Drafts of a run on its way: what jumping to 0 shows after some of its jumps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anyflow_rt.errors import UsageError

if TYPE_CHECKING:
    from anyflow_rt.output.background import BackgroundWriter

PREVIEW_AFTER = (1, 4, 16)
"""Jumps. Each draft costs a jump and a decoding, so every next one comes after four times as many."""


@dataclass(frozen=True, eq=False)
class Preview:
    """One draft. steps: jumps the run had made; the draft shows one more, to 0. seconds: since the run's start.

    frames: uint8 (N, T, H, W, 3), None where they went to ``paths``.
    """

    steps: int
    seconds: float
    frames: np.ndarray | None = field(repr=False)
    paths: tuple[Path, ...] = ()


OnPreview = Callable[[Preview], object]


def check_preview(preview: object) -> None:
    """Raise UsageError unless it can be called or says yes or no."""
    if not (preview is None or isinstance(preview, bool) or callable(preview)):
        raise UsageError(f"preview is {preview!r}; give True, or a function that takes a Preview, or leave it out")


def check_preview_after(counts: object) -> tuple[int, ...]:
    """A tuple of the counts; their range is ``Limits``' business. Raises UsageError for what is no list of them."""
    if isinstance(counts, str | bytes) or not isinstance(counts, Sequence):
        raise UsageError(f"preview_after is {counts!r}; give a list of numbers of jumps, such as [1, 4]")
    return tuple(counts)


def whole_draft(steps: int, chunks: Iterator[np.ndarray]) -> tuple[np.ndarray, tuple[Path, ...]]:
    """The frames of a draft in one piece, uint8 (N, T, H, W, 3)."""
    return np.concatenate(list(chunks), axis=1), ()


class DraftFiles:
    """Writes drafts beside ``path``; each file appears when it is whole.

    open_writer: makes the writer of one video file, or files, at a path.
    """

    def __init__(self, path: str | Path, open_writer: Callable[[Path], BackgroundWriter]) -> None:
        self._path, self._open_writer = path, open_writer

    def write(self, steps: int, chunks: Iterator[np.ndarray]) -> tuple[None, tuple[Path, ...]]:
        """Write the draft after ``steps`` jumps; where it is."""
        with self._open_writer(draft_path(self._path, steps)) as writer:
            write_chunks(writer, chunks)
            return None, writer.close()


def write_chunks(writer: BackgroundWriter, chunks: Iterator[np.ndarray]) -> None:
    """Hand pieces (N, t, H, W, 3) to a writer, video by video."""
    for chunk in chunks:
        for index, frames in enumerate(chunk):
            writer.write(frames, index)


def draft_path(path: str | Path, steps: int) -> Path:
    """Where the draft after ``steps`` jumps goes: ``out-preview-04.mp4`` beside ``out.mp4``."""
    final = Path(path)
    return final.with_name(f"{final.stem}-preview-{steps:02}{final.suffix}")
