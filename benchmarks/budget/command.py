"""``anyflow-rt bench budget``: the real machine, or the simulated one, case by case, as a table, JSON and charts."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anyflow_rt.benchmarks.budget import sweep
from anyflow_rt.benchmarks.budget.arguments import REAL_REQUESTS, SIMULATED_REQUESTS
from anyflow_rt.benchmarks.budget.charts import write_charts
from anyflow_rt.benchmarks.budget.sweep import Outcome
from anyflow_rt.benchmarks.measure import Conditions
from anyflow_rt.benchmarks.results.machine import describe_machine, package_versions, project_commit
from anyflow_rt.errors import OutputError, UsageError
from anyflow_rt.sampling.calibration import read_calibration
from anyflow_rt.sampling.quality import Quality, fit_quality

SCHEMA = 1

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]


def execute(
    options: argparse.Namespace,
    say: Say = lambda line: None,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Run every case; ``say`` gets the tables as they come. Returns the value of ``--json`` and of budget.json.

    Raises UsageError, BusyMachineError, OutputError where the report cannot be written.
    """
    from anyflow_rt.loading import open_bundle

    folder = None if options.report is None else _folder(Path(options.report))
    bundle = open_bundle(options.bundle, say)
    quality = fit_quality(read_calibration(bundle.calibration_path, bundle.id))
    if quality.note:
        say(quality.note)
    requests = options.requests
    if requests is None:
        requests = SIMULATED_REQUESTS if options.simulated else REAL_REQUESTS
    if requests < 1:
        raise UsageError(f"--requests is {requests}; give at least 1")
    outcomes: list[tuple[Outcome, float | None]]
    if options.simulated:
        outcomes = [(each, None) for each in _simulate(quality, requests, options.seed, say)]
    else:
        outcomes = _measure(bundle, quality, requests, options, say, progress)
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
            {**plain, "other_cores": others}
            for plain, (_, others) in zip(sweep.as_json([each for each, _ in outcomes]), outcomes, strict=True)
        ],
    }
    answer: dict[str, Any] = _without_nan(value)
    if folder is not None:
        _write(folder, answer, [each for each, _ in outcomes])
        say(f"report: {folder}")
    return answer


def _simulate(quality: Quality, requests: int, seed: int, say: Say) -> list[Outcome]:
    outcomes = []
    for case in sweep.on_both_curves(sweep.CASES, quality):
        outcomes.append(sweep.run_case(case, quality, requests=requests, seed=seed, non_uniform=False))
        say(sweep.table(outcomes[-1:]))
    return outcomes


def _measure(
    bundle: Any, quality: Quality, requests: int, options: argparse.Namespace, say: Say, progress: Progress
) -> list[tuple[Outcome, float | None]]:
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
    for outcome, others in real.run_cases(
        bundle, quality, wanted, conditions, lambda case, done, total: progress(str(case), done, total)
    ):
        say(sweep.table([outcome]))
        found.append((outcome, others))
    return found


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write to {path}: {error.strerror}; give another --report") from error
    return path


def _write(folder: Path, value: dict[str, Any], outcomes: Sequence[Outcome]) -> None:
    try:
        (folder / "budget.json").write_text(json.dumps(value, indent=1, allow_nan=False), encoding="utf-8")
        write_charts(folder, outcomes)
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
