"""The contact sheet: a row for each prompt, a column for each step count, the same seed everywhere."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyflow_rt.benchmarks.optional import optional_module
from anyflow_rt.benchmarks.pages.canvas import WIDTH, canvas
from anyflow_rt.errors import OutputError, UsageError
from anyflow_rt.output.sheet import evenly_spaced

FRAMES_A_CELL = 3
"""Of a clip, one below the other: first, middle and last, so that motion shows."""
GAP = 0.06
"""White between pictures, as a share of a picture's width."""
LINE_LENGTH = 58
"""Letters of a prompt on one line."""
LINE_INCHES = 0.27

Picture = np.ndarray | str | Path
"""uint8 RGB frames (T, H, W, 3), one frame (H, W, 3), or the path of an image file."""


@dataclass(frozen=True, eq=False)
class ContactSheet:
    """(prompt, steps) -> what to show there. Prompts keep their order, steps go from few to many.

    A combination that is not there stays white.
    """

    pictures: Mapping[tuple[str, int], Picture]

    def __post_init__(self) -> None:
        if not self.pictures:
            raise UsageError("a contact sheet of no pictures: give it frames by (prompt, steps), or leave it out")


def sheet_picture(sheet: ContactSheet) -> bytes:
    """The PNG. Raises OutputError for an image file that cannot be read, UsageError for arrays that are no frames."""
    prompts = list(dict.fromkeys(prompt for prompt, _ in sheet.pictures))
    steps = sorted({number for _, number in sheet.pictures})
    cells = {key: _cell(key, picture) for key, picture in sheet.pictures.items()}
    height = max(cell.shape[0] for cell in cells.values())
    width = max(cell.shape[1] for cell in cells.values())
    pitch = width + max(1, round(GAP * width))
    titles = [textwrap.wrap(prompt, LINE_LENGTH) or [""] for prompt in prompts]
    row_inches = [WIDTH * height / (pitch * len(steps)) + LINE_INCHES * (len(title) + 1) + 0.15 for title in titles]
    with canvas(sum(row_inches)) as drawn:
        every = drawn.figure.subplots(len(prompts), squeeze=False, height_ratios=row_inches)[:, 0]
        for axes, prompt, title in zip(every, prompts, titles, strict=True):
            row = np.full((height, pitch * len(steps), 3), 255, np.uint8)
            for column, number in enumerate(steps):
                cell = cells.get((prompt, number))
                if cell is not None:
                    row[: cell.shape[0], column * pitch : column * pitch + cell.shape[1]] = cell
            _draw_row(axes, row, "\n".join(title), [column * pitch + width / 2 for column in range(len(steps))], steps)
        return drawn.png()


def _draw_row(axes: Any, row: np.ndarray, title: str, centres: list[float], steps: list[int]) -> None:
    axes.imshow(row, interpolation="nearest")
    axes.set_title(title, loc="left", fontsize=13)
    labels = [
        f"{number} step{'' if number == 1 else 's'}" if len(steps) < 5 or place == 0 else str(number)
        for place, number in enumerate(steps)
    ]
    axes.set_xticks(centres, labels)
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _cell(key: tuple[str, int], picture: Picture) -> np.ndarray:
    """uint8 (h, w, 3): the chosen frames below each other."""
    frames = _read(picture) if isinstance(picture, str | Path) else picture
    if frames.ndim == 3:
        frames = frames[None]
    if frames.ndim != 4 or frames.dtype != np.uint8 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise UsageError(
            f"the picture of {key} is {frames.dtype} {frames.shape}; "
            "a contact sheet takes uint8 (T, H, W, 3) or (H, W, 3)"
        )
    chosen = [frames[index] for index in evenly_spaced(len(frames), min(FRAMES_A_CELL, len(frames)))]
    gap = np.full((max(1, round(GAP * frames.shape[2])), frames.shape[2], 3), 255, np.uint8)
    stacked = [part for frame in chosen for part in (frame, gap)]
    return np.concatenate(stacked[:-1])


def _read(path: str | Path) -> np.ndarray:
    image = optional_module("PIL.Image", "drawing the report")
    try:
        with image.open(path) as opened:
            return np.asarray(opened.convert("RGB"))
    except (OSError, ValueError) as error:
        raise OutputError(
            f"the contact sheet cannot read the image {path} ({error}); give a PNG of RGB frames"
        ) from error
