"""A report directory: results.json, the charts, the contact sheet and the page, all drawn before any is written."""

from __future__ import annotations

import contextlib
from pathlib import Path

from anyflow_rt.benchmarks.optional import optional_module
from anyflow_rt.benchmarks.pages.charts import latency_chart, metrics_chart, pareto_chart, quality_chart
from anyflow_rt.benchmarks.pages.page import page_html
from anyflow_rt.benchmarks.pages.sections import LATENCY, METRICS, PARETO, QUALITY, SHEET
from anyflow_rt.benchmarks.pages.sheet import ContactSheet, sheet_picture
from anyflow_rt.benchmarks.results.file import (
    RESULTS_NAME,
    read_results,
    refuse_directories,
    results_to_json,
    write_files,
)
from anyflow_rt.benchmarks.results.summary import Summary, summarize_results
from anyflow_rt.benchmarks.results.values import Results
from anyflow_rt.errors import OutputError, UsageError
from anyflow_rt.output.target import OutputFile, output_error

PAGE_NAME = "index.html"
CHARTS = {QUALITY: quality_chart, LATENCY: latency_chart, PARETO: pareto_chart, METRICS: metrics_chart}
NEEDED = ("scipy", "matplotlib", "jinja2", "PIL")


def prepare_report(directory: str | Path) -> None:
    """Make sure, before anything is measured, that a report can be drawn and written; makes the directory.

    Raises MissingPackageError with the line that installs what is missing, OutputError where it cannot be written.
    """
    for package in NEEDED:
        optional_module(package, "drawing the report")
    path = Path(directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise OutputError(f"the report {path} is a file, not a directory; name another with --report") from None
    except OSError as error:
        raise output_error(path, error) from error
    refuse_directories(path / name for name in (RESULTS_NAME, *CHARTS, SHEET, PAGE_NAME))
    probe = OutputFile(path / RESULTS_NAME)
    try:
        probe.create()
    finally:
        probe.discard()


def write_report(results: Results, directory: str | Path, sheet: ContactSheet | bytes | None = None) -> Summary:
    """Write the report of ``results`` and return its figures. ``sheet``: pictures, or a PNG that was drawn before.

    Everything is drawn first and written beside its place, so that a failure leaves an older report as it was; the
    page comes last. Charts of an older report that this one does not have are removed. Raises as ``prepare_report``.
    """
    prepare_report(directory)
    folder, summary = Path(directory), summarize_results(results)
    drawn = {name: draw(summary) for name, draw in CHARTS.items()}
    drawn[SHEET] = sheet_picture(sheet) if isinstance(sheet, ContactSheet) else sheet
    pictures = {name: png for name, png in drawn.items() if png is not None}
    write_files(
        {
            folder / RESULTS_NAME: results_to_json(results).encode(),
            **{folder / name: png for name, png in pictures.items()},
            folder / PAGE_NAME: page_html(summary, pictures).encode(),
        }
    )
    for name in drawn.keys() - pictures.keys():
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
    return summary


def redraw_report(file: str | Path, directory: str | Path | None = None) -> Summary:
    """The report of a results file (or of a directory that has one), without running anything.

    Goes to ``directory``, by default where a ``results.json`` lies, together with the contact sheet beside it. Raises
    ResultsError for a file that cannot be read, UsageError where it is not clear where the report goes, and as
    ``write_report``.
    """
    results, given = read_results(file), Path(file)
    source = given if given.is_dir() else given.parent
    whole_report = given.is_dir() or given.name == RESULTS_NAME
    if directory is None and not whole_report:
        # A report holds a results.json: beside a file of another name that might be another run's.
        raise UsageError(f"{given} is not called {RESULTS_NAME}; say where its report goes with --report DIR")
    sheet = source / SHEET
    try:
        picture = sheet.read_bytes() if whole_report and sheet.is_file() else None
    except OSError as error:
        raise OutputError(f"cannot read {sheet} ({error.strerror}); mend its permissions or remove it") from error
    return write_report(results, source if directory is None else directory, picture)
