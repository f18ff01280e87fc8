"""What the page says, in order: sentences, a picture and tables for each section. No markup here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from anyflow_rt.benchmarks.results.bars_tables import against_tables, falls_sentences
from anyflow_rt.benchmarks.results.summary import Curve, Summary
from anyflow_rt.benchmarks.results.tables import (
    Table,
    ceiling_sentences,
    changes_table,
    curve_table,
    fit_sentences,
    fit_table,
    jumps_table,
    latency_table,
    memory_sentences,
    metrics_table,
    parity_sentences,
    peer_tables,
    set_scores_table,
    settings_table,
    totals_table,
)
from anyflow_rt.benchmarks.results.wording import bounds_text, metric_name, metric_title, seconds_text, shown
from anyflow_rt.benchmarks.statistics.bootstrap import Interval

QUALITY, LATENCY, PARETO = "quality_vs_steps.png", "latency_vs_steps.png", "pareto.png"
METRICS, SHEET = "metrics_vs_steps.png", "contact_sheet.png"
TILE_STEPS = 4
"""The step count that the figures on top are of, where it was measured: what a run takes where nobody says."""


@dataclass(frozen=True)
class Fold:
    """Tables that are opened by a tap on ``title``."""

    title: str
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class Section:
    """A part of the page. picture: the name of a file beside it; picture_text: what it shows, for who cannot see it."""

    title: str
    sentences: tuple[str, ...] = ()
    picture: str | None = None
    picture_text: str = ""
    tables: tuple[Table, ...] = ()
    folds: tuple[Fold, ...] = ()


@dataclass(frozen=True)
class Tile:
    """One figure on top of the page. interval: its bounds, empty where it has none."""

    value: str
    interval: str
    label: str


def page_sections(summary: Summary, pictures: Collection[str]) -> tuple[Section, ...]:
    """The sections that there is something to say in; ``pictures``: the files that were drawn."""
    every = (
        _quality(summary),
        _pareto(summary),
        _latency(summary),
        _peer(summary),
        _sheet(pictures),
        _metrics(summary),
        Section("Single jumps", folds=_folds(jumps_table(summary))),
        Section("Notes", summary.results.notes),
        Section("How it was measured", tables=(settings_table(summary),)),
    )
    kept = []
    for section in every:
        drawn = section.picture in pictures
        if drawn or section.sentences or section.tables or section.folds:
            kept.append(section if drawn else replace(section, picture=None, picture_text=""))
    return tuple(kept)


def page_tiles(summary: Summary) -> tuple[Tile, ...]:
    """A handful of figures: quality, seconds and ratio at one step count, and the share of the ceiling."""
    counts = [steps for curve in summary.headline[:1] for steps, _ in curve.points] or [
        row.steps for row in summary.totals
    ]
    steps = min(counts, key=lambda number: abs(number - TILE_STEPS), default=TILE_STEPS)
    at = f"at {steps} step{'' if steps == 1 else 's'}"
    tiles = []
    for curve in summary.headline[:1]:
        named = f"{curve.metric.title or metric_name(curve.metric)}, {curve.series}, {at}"
        unit = "%" if curve.metric.share else ""
        tiles += [
            _interval_tile(shown(interval, curve.metric), unit, named)
            for number, interval in curve.points
            if number == steps
        ]
    totals = [row.latency.p50 for row in summary.totals if row.steps == steps]
    tiles += [Tile(seconds_text(median), "", f"a run {at}, median") for median in totals]
    best = [row for row in summary.peers if row.best and row.steps == steps]
    tiles += [_interval_tile(row.ratio, "x", f"as fast as {row.peer}, {at}") for row in best]
    if summary.ceiling is not None and summary.ceiling.share is not None:
        share = f"{summary.ceiling.share:.0%}"
        tiles.append(Tile(share, "", "of the machine's matrix product rate, reached by the denoiser"))
    return tuple(tiles)


def _interval_tile(interval: Interval, unit: str, label: str) -> Tile:
    return Tile(f"{interval.estimate:.3g}{unit}", f"{bounds_text(interval)} (95%)", label)


def _quality(summary: Summary) -> Section:
    curves = summary.headline
    if not curves:
        return Section("Quality against steps")
    metric = curves[0].metric
    sentences = [f"{metric_title(metric)}: {metric.description}."] if metric.description else []
    sentences.append(
        "Points are means with 95% intervals, bootstrapped by prompt. Lines are the envelope: the best that this "
        "many steps or fewer give. More steps are not always better."
    )
    sentences += falls_sentences(summary)
    return Section(
        "Likeness against steps" if metric.fidelity else "Quality against steps",
        tuple(sentences),
        QUALITY,
        f"{metric_name(metric)} against the number of steps, with intervals",
        (*_present(curve_table(curves[0]), changes_table(curves[0])), *against_tables(summary)),
        _curve_folds(curves[1:]),
    )


def _pareto(summary: Summary) -> Section:
    return Section(
        "Quality against seconds",
        picture=PARETO,
        picture_text="The same metric against the median seconds of a run, a point for each step count",
    )


def _latency(summary: Summary) -> Section:
    return Section(
        "Latency against steps",
        (*ceiling_sentences(summary), *fit_sentences(summary), *memory_sentences(summary)),
        LATENCY,
        "Seconds of a run against the number of steps: median, 95th percentile, fit",
        _present(totals_table(summary)),
        _folds(fit_table(summary), latency_table(summary)),
    )


def _peer(summary: Summary) -> Section:
    tables = peer_tables(summary)
    count = len({row.peer for row in summary.peers if row.best})
    return Section("Against the peer", parity_sentences(summary), tables=tables[:count], folds=_folds(*tables[count:]))


def _sheet(pictures: Collection[str]) -> Section:
    said = ("Of each video the first, the middle and the last frame, from top to bottom.",)
    return Section(
        "The same prompts and seeds at every step count",
        said if SHEET in pictures else (),
        SHEET,
        "A contact sheet: a row for each prompt, a column for each step count",
    )


def _metrics(summary: Summary) -> Section:
    others = [curve for curve in summary.curves if curve not in summary.headline]
    compared = any(curve.metric.fidelity for curve in others)
    sentences = (
        ("Fidelity is likeness to a run of many steps at the same seed. It is not quality.",) if compared else ()
    )
    return Section(
        "Other metrics",
        sentences,
        METRICS,
        "Every other metric against the number of steps, with intervals",
        _present(set_scores_table(summary)),
        (*_curve_folds(others), *_folds(metrics_table(summary))),
    )


def _present(*tables: Table | None) -> tuple[Table, ...]:
    return tuple(table for table in tables if table is not None)


def _folds(*tables: Table | None) -> tuple[Fold, ...]:
    return tuple(Fold(table.title, (table,)) for table in _present(*tables))


def _curve_folds(curves: Sequence[Curve]) -> tuple[Fold, ...]:
    """One for each metric, with all of its scores and series."""
    found: dict[str, list[Table]] = {}
    for curve in curves:
        metric = curve.metric.name.partition(".")[0]
        found.setdefault(metric, []).extend(_present(curve_table(curve), changes_table(curve)))
    return tuple(Fold(f"{metric}: every score", tuple(tables)) for metric, tables in found.items())
