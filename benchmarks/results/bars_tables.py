"""How a series holds up against others and with more steps: tables and sentences, for the terminal and the page."""

from __future__ import annotations

from anyflow_rt.benchmarks.results.bars import FEWEST_PAIRS
from anyflow_rt.benchmarks.results.summary import Summary
from anyflow_rt.benchmarks.results.tables import Table
from anyflow_rt.benchmarks.results.wording import bounds_text, change_text, interval_text, short_name, shown


def against_tables(summary: Summary) -> tuple[Table, ...]:
    """The first series at each of its step counts less another series at one, pair by pair."""
    first = summary.headline[0].series if summary.headline else ""
    return tuple(
        Table(
            f"{short_name(each.metric)}: {first} less {each.series} at {each.steps} steps, pair by pair; "
            "each interval at 95% on its own",
            (f"steps of {first}", "difference", "interval", "videos", ""),
            tuple(
                (
                    str(steps),
                    f"{shown(difference.interval, each.metric).estimate:+.3g}",
                    bounds_text(shown(difference.interval, each.metric), "+"),
                    str(difference.interval.samples),
                    change_text(difference, each.metric),
                )
                for steps, difference in each.differences
            ),
        )
        for each in summary.against
        if each.differences
    )


def falls_sentences(summary: Summary) -> tuple[str, ...]:
    """Whether more steps ever cost quality, and whether there are videos enough to say so."""
    found, sentences = summary.falls, []
    if found is not None:
        name = f"{short_name(found.metric)} of {found.series}"
        ends = f"from {found.steps[0]} to {found.steps[-1]} steps"
        how = f"{found.compared} comparisons on {found.videos} videos, all together at 95%"
        for each in found.significant:
            text = interval_text(shown(each.interval, found.metric), "+")
            sentences.append(f"{name} gets worse from {each.before} to {each.after} steps: {text} ({how}).")
        if not found.significant:
            worst = (
                "it loses nothing at all"
                if found.worst is None
                else f"its largest loss, from {found.worst.before} to {found.worst.after}, is "
                f"{interval_text(shown(found.worst.interval, found.metric), '+')}"
            )
            sentences.append(f"{name} never gets significantly worse {ends}; {worst} ({how}).")
    videos = [difference.interval.samples for each in summary.against for _, difference in each.differences]
    fewest = min([*videos, *([] if found is None else [found.videos])], default=FEWEST_PAIRS)
    if fewest < FEWEST_PAIRS:
        sentences.append(
            f"Of {fewest} videos little can be said: give {FEWEST_PAIRS} or more to see small differences."
        )
    return tuple(sentences)
