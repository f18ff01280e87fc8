"""What a sweep found, in the form that budgets are planned with: the bundle's ``calibration.json``."""

from __future__ import annotations

import math
from collections.abc import Callable

from anyflow_rt.benchmarks.results.summary import headline_metric, scores_by_steps
from anyflow_rt.benchmarks.results.values import SHIPPED, Results
from anyflow_rt.benchmarks.statistics.comparisons import means
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.errors import OutputError
from anyflow_rt.sampling.calibration import Calibration, Edge, QualityPoint, write_calibration


def calibration_of(results: Results) -> Calibration | None:
    """The headline metric's curve and the mean jump errors; None where no metric says which way is better."""
    name = headline_metric(results)
    if name is None:
        return None
    metric, curves = results.metric(name), scores_by_steps(results)
    if metric.fidelity or metric.higher_is_better is None or (SHIPPED, name) not in curves:
        return None
    return Calibration(
        bundle_id=results.bundle_id,
        metric=name,
        higher_is_better=metric.higher_is_better,
        points=tuple(
            QualityPoint(steps, found.estimate, found.low, found.high, found.samples)
            for steps, found in means(curves[SHIPPED, name])
        ),
        edges=tuple(
            Edge(each.start, each.end, math.fsum(each.errors) / len(each.errors)) for each in results.jump_errors
        ),
    )


def keep_calibration(results: Results, bundle: Bundle, say: Callable[[str], None]) -> bool:
    """Write the bundle's calibration; False, and a line that says why, where there is none or it cannot be written."""
    calibration = calibration_of(results)
    if calibration is None:
        say("the bundle's calibration stays as it was: no metric of quality was measured (fidelity is none)")
        return False
    try:
        write_calibration(bundle.calibration_path, calibration)
    except OutputError as error:
        say(f"the bundle's calibration stays as it was: {error}")
        return False
    return True
