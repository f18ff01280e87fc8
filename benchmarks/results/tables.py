"""The tables and sentences of a report, once for the terminal and the page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from anyflow_rt.benchmarks.results.summary import Curve, PeerRow, StageRow, Summary
from anyflow_rt.benchmarks.results.values import UNKNOWN, Settings
from anyflow_rt.benchmarks.results.wording import (
    bounds_text,
    bytes_text,
    change_text,
    metric_label,
    metric_name,
    metric_title,
    number_text,
    score_text,
    seconds_text,
    shown,
    size_text,
    when_text,
)


@dataclass(frozen=True)
class Table:
    """Rows of texts under their heads. The first column names the row; ``numbers``: whether the others align right."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: bool = True


def latency_table(summary: Summary) -> Table | None:
    """Every stage at every step count."""
    rows = tuple((row.stage, str(row.steps), *_latency(row)) for row in summary.stages)
    head = ("stage", "steps", "p50", "p95", "max", "n", "frames/s")
    return Table("Latency of each stage", head, rows) if rows else None


def totals_table(summary: Summary) -> Table | None:
    """The stage "total" alone."""
    rows = tuple((str(row.steps), *_latency(row)) for row in summary.totals)
    return Table("End to end", ("steps", "p50", "p95", "max", "n", "frames/s"), rows) if rows else None


def _latency(row: StageRow) -> tuple[str, ...]:
    quantiles = (row.latency.p50, row.latency.p95, row.latency.max)
    speed = "" if row.frames_per_second is None else number_text(row.frames_per_second)
    return (*(seconds_text(value) for value in quantiles), str(row.latency.n), speed)


def fit_sentences(summary: Summary) -> tuple[str, ...]:
    """What a run costs and what a step adds."""
    fit = summary.fit
    if fit is None:
        return ()
    if len(fit.residuals) > 2:
        how = f"least squares through the medians; off by at most {fit.worst_share:.1%}"
    else:
        how = "a line through two medians, which leaves no residual to judge it by"
    return (f"A run costs {seconds_text(fit.fixed)}, and {seconds_text(fit.per_step)} more for each step ({how}).",)


def fit_table(summary: Summary) -> Table | None:
    """Residuals of the fit; none of a line through two points."""
    if summary.fit is None or len(summary.fit.residuals) < 3:
        return None
    medians = {row.steps: row.latency.p50 for row in summary.totals}
    rows = tuple(
        (str(steps), seconds_text(medians[steps]), seconds_text(summary.fit.at(steps)), f"{residual * 1e3:+.3g} ms")
        for steps, residual in summary.fit.residuals
    )
    return Table("Fixed cost and cost per step: residuals", ("steps", "median", "fit", "residual"), rows)


def ceiling_sentences(summary: Summary) -> tuple[str, ...]:
    """The machine's matrix product rate, and how much of it the denoiser turns into useful work."""
    row = summary.ceiling
    if row is None:
        return ()
    found = [f"Ceiling at {row.precision}: {number_text(row.rate)} GFLOP/s ({row.name})."]
    if row.reached is not None and row.share is not None:
        found.append(f"The denoiser reaches {number_text(row.reached)} GFLOP/s, {row.share:.0%} of the ceiling.")
    return tuple(found)


def memory_sentences(summary: Summary) -> tuple[str, ...]:
    """Peaks, and what the GPU's driver said."""
    memory, gpu = summary.results.memory, summary.results.gpu
    found = []
    if memory.peak_resident is not None:
        process = "" if memory.process == UNKNOWN else f", {memory.process}"
        found.append(f"Peak memory: {bytes_text(memory.peak_resident)} resident{process}.")
    if memory.peak_device is not None:
        found.append(f"Peak GPU memory: {bytes_text(memory.peak_device)}, all processes counted.")
    if gpu is not None:
        energy = "energy unknown" if gpu.energy is None else f"{number_text(gpu.energy)} J"
        clocks = f"SM clock {min(gpu.clocks)} to {max(gpu.clocks)} MHz" if gpu.clocks else "clocks unknown"
        found.append(f"{gpu.device}: {energy}, {clocks}, clock events: {', '.join(gpu.events) or 'none'}.")
    return tuple(found)


def parity_sentences(summary: Summary) -> tuple[str, ...]:
    """Whether both sides of the comparison make the same videos."""
    parity = summary.results.parity
    if parity is None:
        return ()
    verdict = "holds" if parity.holds else "DOES NOT HOLD, so no speed is compared"
    return (f"Parity with the peer {verdict}{': ' if parity.details else ''}{'; '.join(parity.details)}.",)


def peer_tables(summary: Summary) -> tuple[Table, ...]:
    """One for each peer, those that are its best somewhere first."""
    names = dict.fromkeys(row.peer for row in sorted(summary.peers, key=lambda row: not row.best))
    return tuple(_peer_table(name, [row for row in summary.peers if row.peer == name]) for name in names)


def _peer_table(name: str, found: Sequence[PeerRow]) -> Table:
    best = [str(row.steps) for row in found if row.best]
    where = "everywhere" if len(best) == len(found) else f"at {', '.join(best)} steps"
    rows = tuple(
        (
            str(row.steps),
            seconds_text(row.theirs.p50),
            seconds_text(row.ours.p50),
            f"{row.ratio.estimate:.3g}x",
            bounds_text(row.ratio),
            str(row.ratio.clusters),
        )
        for row in found
    )
    rank = f", the fastest peer {where}" if best else ""
    title = f"{name}{rank}: medians, and theirs over ours"
    return Table(title, ("steps", "theirs", "ours", "ratio", "95% interval", "n"), rows)


def curve_table(curve: Curve) -> Table:
    """One metric of one series."""
    reachable = (
        ["" for _ in curve.points]
        if curve.envelope is None
        else [score_text(value, curve.metric) for value in curve.envelope.reachable]
    )
    rows = tuple(
        (str(steps), score_text(interval.estimate, curve.metric), bounds_text(shown(interval, curve.metric)), reach)
        for (steps, interval), reach in zip(curve.points, reachable, strict=True)
    )
    count = curve.points[0][1]
    title = f"{metric_label(curve.metric)}, {curve.series}: {count.samples} videos of {count.clusters} prompts"
    return Table(title, ("steps", "mean", "95% interval", "envelope"), rows)


def changes_table(curve: Curve) -> Table | None:
    """What the next higher step count changes on the same prompts and seeds."""
    rows = tuple(
        (
            f"{each.before} to {each.after}",
            f"{shown(each.interval, curve.metric).estimate:+.3g}",
            bounds_text(shown(each.interval, curve.metric), "+"),
            change_text(each, curve.metric),
        )
        for each in curve.neighbours
    )
    name = curve.metric.title or metric_name(curve.metric)
    title = f"Change of {name}, {curve.series}, pair by pair; intervals hold together at 95%"
    return Table(title, ("steps", "change", "interval", ""), rows) if rows else None


def metrics_table(summary: Summary) -> Table | None:
    """What each metric is."""
    described = [summary.results.metric(name) for name in summary.results.metric_names]
    rows = tuple((metric_title(metric), metric.description) for metric in described if metric.description)
    return Table("What each metric is", ("metric", "meaning"), rows, numbers=False) if rows else None


def set_scores_table(summary: Summary) -> Table | None:
    """What metrics say of all videos together: a row for each series and step count, a column for each metric."""
    found = summary.results.set_scores
    if not found:
        return None
    names = list(dict.fromkeys(each.metric for each in found))
    several = len({each.series for each in found}) > 1
    values = {(each.series, each.steps, each.metric): number_text(each.score) for each in found}
    videos = {(each.series, each.steps): str(each.videos) for each in found}
    rows = tuple(
        (
            f"{series}, {steps}" if several else str(steps),
            *(values.get((series, steps, name), "") for name in names),
            count,
        )
        for (series, steps), count in videos.items()
    )
    heads = (summary.results.metric(name).title or name for name in names)  # short: a phone shows the table whole
    return Table("All videos together", ("series, steps" if several else "steps", *heads, "videos"), rows)


def jumps_table(summary: Summary) -> Table | None:
    """Mean errors of single jumps, the longest first."""
    measured = sorted(summary.results.jump_errors, key=lambda each: (-each.start, each.end))
    rows = tuple(
        (f"{each.start} to {each.end}", number_text(statistics.mean(each.errors)), str(len(each.errors)))
        for each in measured
        if each.errors
    )
    head = ("from, to (32nds)", "mean error", "n")
    return Table("Error of single jumps, relative to the latents' size", head, rows) if rows else None


def settings_table(summary: Summary) -> Table:
    """What was run, where, and with which versions."""
    results = summary.results
    settings, machine = results.settings, results.machine
    gpus = [f"{gpu.name}, {bytes_text(gpu.memory)}, driver {gpu.driver}" for gpu in machine.gpus]
    rows = (
        ("measured", when_text(results.created)),
        ("engine", f"{settings.engine}, {settings.precision}"),
        ("video", f"{size_text(settings)}, batch {settings.batch}"),
        *_settings_rows(settings),
        ("warm-up", settings.warm_up),
        ("timed", settings.timed),
        ("cached", settings.cached),
        ("processor", f"{machine.processor}, {machine.cores or 'unknown'} cores"),
        ("instructions", ", ".join(machine.instructions) or "unknown"),
        ("memory", bytes_text(machine.memory)),
        ("GPU", "; ".join(gpus) or "none"),
        ("system", machine.system),
        ("versions", ", ".join(f"{name} {version}" for name, version in results.versions.items())),
        ("commit", results.commit),
        ("bundle", results.bundle_id),
    )
    return Table("What was measured, where", ("what", "value"), rows, numbers=False)


def _settings_rows(settings: Settings) -> tuple[tuple[str, str], ...]:
    """What was asked for; nothing for what an older file does not say."""
    kinds = {True: "jumps (mean velocity)", False: "Euler steps (r = t)"}
    rows = (
        ("steps are", None if settings.mean_velocity is None else kinds[settings.mean_velocity]),
        ("prompts", None if settings.prompts == UNKNOWN else settings.prompts),
        (
            "videos",
            None if settings.seeds is None else f"{settings.seeds} of each prompt, seeds from {settings.first_seed} on",
        ),
        (
            "fidelity to",
            None if settings.reference_steps is None else f"{settings.reference_steps} and twice as many steps",
        ),
        ("timed runs", None if settings.rounds is None else f"{settings.rounds} at each step count"),
    )
    return tuple((name, text) for name, text in rows if text is not None)
