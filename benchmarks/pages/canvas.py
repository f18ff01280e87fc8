"""What the charts have in common: sizes that a phone can show, colours that colour-blind readers can tell apart.

A chart is 6.4 inches wide and a phone shows it at some 390 points, so that 14 pt letters come out at about 12.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from anyflow_rt.benchmarks.optional import optional_module

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette (2008), in an order whose neighbours differ most."""
MARKERS = ("o", "s", "^", "D", "v", "P")
WIDTH = 6.4
"""Inches."""
DOTS_PER_INCH = 160
INK, FAINT = "#222222", "#d7d7d7"
STYLE = {
    "font.size": 14,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 14,
    "axes.labelsize": 14,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "legend.fontsize": 12.5,
    "legend.frameon": False,
    "lines.linewidth": 2.2,
    "lines.markersize": 8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.parse_math": False,
}


class Canvas:
    """A figure in the making. ``png`` gives its bytes, the same for the same drawing."""

    def __init__(self, figure: Any) -> None:
        self.figure = figure

    def png(self) -> bytes:
        """The picture."""
        stream = io.BytesIO()
        # Software would put matplotlib's version into the file.
        self.figure.savefig(stream, format="png", dpi=DOTS_PER_INCH, facecolor="white", metadata={"Software": None})
        return stream.getvalue()


@contextmanager
def canvas(height: float) -> Iterator[Canvas]:
    """A white figure ``WIDTH`` inches wide and ``height`` high, drawn without a screen.

    The style holds inside the ``with`` block, ``png`` included. Raises MissingPackageError.
    """
    matplotlib = optional_module("matplotlib", "drawing the report")
    figures = optional_module("matplotlib.figure", "drawing the report")
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE, "backend": "agg"}):
        yield Canvas(figures.Figure(figsize=(WIDTH, height), layout="constrained"))


def step_axis(axes: Any, steps: Sequence[int]) -> None:
    """A logarithmic axis with a tick at each step count that was measured."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(set(steps)), [str(number) for number in sorted(set(steps))])
    axes.minorticks_off()
    axes.set_xlabel("steps")
    axes.set_xlim(min(steps) / 1.25, max(steps) * 1.25)


def seconds_scale(axis: Any) -> None:
    """A logarithmic axis of seconds with plain numbers at 1, 2 and 5."""
    ticker = optional_module("matplotlib.ticker", "drawing the report")
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())
    axis.set_minor_locator(ticker.NullLocator())


def legend_above(axes: Any) -> None:
    """The legend over the axes, to the left, where it hides no point. Points with intervals come first."""
    handles, entries = axes.get_legend_handles_labels()
    if entries:
        order = sorted(range(len(entries)), key=lambda place: not hasattr(handles[place], "lines"))
        columns = 1 if max(len(entry) for entry in entries) > 22 else 2
        axes.legend(
            [handles[place] for place in order],
            [entries[place] for place in order],
            loc="lower left",
            bbox_to_anchor=(-0.02, 1.0),
            ncols=columns,
            borderaxespad=0.2,
        )
