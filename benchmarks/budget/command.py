"""``anyflow-rt bench budget``: the real machine, or the simulated one, case by case, as a table, JSON and charts."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anyflow_rt.benchmarks.budget import sweep, tables
from anyflow_rt.benchmarks.budget.arguments import REAL_REQUESTS, SIMULATED_REQUESTS
from anyflow_rt.benchmarks.budget.charts import write_charts
from anyflow_rt.benchmarks.budget.sweep import Measured, Outcome
from anyflow_rt.benchmarks.measure import Conditions
from anyflow_rt.benchmarks.results.machine import describe_machine, package_versions, project_commit
from anyflow_rt.errors import OutputError, UsageError
from anyflow_rt.sampling.calibration import read_calibration
from anyflow_rt.sampling.quality import Quality, fit_quality

SCHEMA = 2

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]


def execute(
    options: argparse.Namespace,
    say: Say = lambda line: None,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Run every case; ``say`` gets the tables as they come. Returns the value of ``--json``; budget.json also has the
    recorded times of every request of the real machine.

    Raises UsageError, BusyMachineError, OutputError where the report cannot be written.
    """
    from anyflow_rt.loading import open_bundle

    requests = options.requests
    if requests is None:
        requests = SIMULATED_REQUESTS if options.simulated else REAL_REQUESTS
    if requests < 1:
        raise UsageError(f"--requests is {requests}; give at least 1")
    if options.seed < 0:
        raise UsageError(f"--seed is {options.seed}; give at least 0")
    folder = None if options.report is None else _folder(Path(options.report))
    bundle = open_bundle(options.bundle, say)
    quality = fit_quality(read_calibration(bundle.calibration_path, bundle.id))
    if quality.note:
        say(quality.note)
    if options.simulated:
        measured = [Measured(each) for each in _simulate(quality, requests, options.seed, say)]
    else:
        measured = _measure(bundle, quality, requests, options, say, progress)
    value = {
        "schema": SCHEMA,
        "machine": asdict(describe_machine()),
        "versions": package_versions(),
        "commit": project_commit(),
        "bundle_id": bundle.id,
        "simulated": bool(options.simulated),
        "valid": bool(options.simulated or not options.allow_busy),
        "quality": {"metric": quality.metric, "note": quality.note, "knots": quality.knots},
        "cases": [
            {"name": str(each.outcome.case), **plain, "other_cores": each.other_cores}
            for each, plain in zip(measured, tables.as_json([each.outcome for each in measured]), strict=True)
        ],
    }
    answer: dict[str, Any] = _without_nan(value)
    if folder is not None:
        _write(folder, answer, measured)
        say(f"report: {folder}")
    return answer


def _simulate(quality: Quality, requests: int, seed: int, say: Say) -> list[Outcome]:
    outcomes = []
    for case in sweep.on_both_curves(sweep.CASES, quality):
        outcomes.append(sweep.run_case(case, quality, requests=requests, seed=seed))
        say(tables.table(outcomes[-1:]))
    return outcomes


def _measure(
    bundle: Any, quality: Quality, requests: int, options: argparse.Namespace, say: Say, progress: Progress
) -> list[Measured]:
    from anyflow_rt.benchmarks.budget import real

    wanted = real.RealOptions(
        requests=requests,
        seed=options.seed,
        engine=options.engine,
        precision=options.precision,
        cases=sweep.on_both_curves(real.CASES, quality),
    )
    conditions = Conditions(allow_busy=options.allow_busy, say=say)
    found = []
    for each in real.run_cases(
        bundle, quality, wanted, conditions, lambda case, done, total: progress(str(case), done, total)
    ):
        say(tables.table([each.outcome]))
        found.append(each)
    return found


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write to {path}: {error.strerror}; give another --report") from error
    return path


def _write(folder: Path, answer: dict[str, Any], measured: Sequence[Measured]) -> None:
    requests = [{"requests": _without_nan(tables.records_json(each.parts))} if each.parts else {} for each in measured]
    cases = [{**case, **each} for case, each in zip(answer["cases"], requests, strict=True)]
    value = {**answer, "cases": cases}
    try:
        (folder / "budget.json").write_text(json.dumps(value, allow_nan=False), encoding="utf-8")
        write_charts(folder, [each.outcome for each in measured])
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}; give another --report") from error


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: null, and its keys are texts."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return value
