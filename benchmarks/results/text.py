"""Results for the terminal: what was run and the ceiling first, then times, then what they buy."""

from __future__ import annotations

from anyflow_rt.benchmarks.results.bars_tables import against_tables, falls_sentences
from anyflow_rt.benchmarks.results.summary import Summary
from anyflow_rt.benchmarks.results.tables import (
    Table,
    ceiling_sentences,
    changes_table,
    curve_table,
    fit_sentences,
    fit_table,
    latency_table,
    memory_sentences,
    parity_sentences,
    peer_tables,
    set_scores_table,
    settings_table,
)


def summary_lines(summary: Summary) -> list[str]:
    """The report as plain lines; the errors of single jumps are left to the page."""
    lines = [f"WARNING: {warning}" for warning in summary.warnings]
    lines += table_lines(settings_table(summary)) + list(ceiling_sentences(summary))
    lines += _optional(latency_table(summary)) + list(fit_sentences(summary)) + _optional(fit_table(summary))
    lines += [*memory_sentences(summary), *parity_sentences(summary)]
    for table in peer_tables(summary):
        lines += table_lines(table)
    for curve in summary.curves:
        lines += table_lines(curve_table(curve)) + _optional(changes_table(curve))
    for table in against_tables(summary):
        lines += table_lines(table)
    lines += falls_sentences(summary)
    return lines + _optional(set_scores_table(summary)) + [f"note: {note}" for note in summary.results.notes]


def table_lines(table: Table) -> list[str]:
    """A title and columns under their heads, the first to the left, numbers to the right."""
    every = [table.head, *table.rows]
    widths = [max(len(row[column]) for row in every) for column in range(len(table.head))]
    lines = []
    for row in every:
        left = [index == 0 or not table.numbers for index in range(len(row))]
        cells = zip(row, widths, left, strict=True)
        lines.append(
            "  " + "  ".join(text.ljust(width) if first else text.rjust(width) for text, width, first in cells)
        )
    return [table.title, *(line.rstrip() for line in lines)]


def _optional(table: Table | None) -> list[str]:
    return [] if table is None else table_lines(table)
