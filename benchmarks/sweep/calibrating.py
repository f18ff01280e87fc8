"""What a sweep found, in the form that budgets are planned with: the bundle's ``calibration.json``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from anyflow_rt.benchmarks.results.summary import headline_metric, scores_by_steps
from anyflow_rt.benchmarks.results.values import SHIPPED, Results
from anyflow_rt.benchmarks.statistics.comparisons import means
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.errors import AnyflowError, BundleError, OutputError
from anyflow_rt.sampling.calibration import Calibration, Edge, QualityPoint, read_calibration, write_calibration


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
    """Write the bundle's calibration; False, and a line that says why, where it stays as it was.

    A sweep of fewer videos or step counts than the one that is there replaces nothing, and neither does another metric.
    Jumps that were not measured this time keep the errors that they have.
    """
    try:
        calibration = _better(results, bundle)
        write_calibration(bundle.calibration_path, calibration)
    except (_KeptError, OutputError) as error:
        say(f"the bundle's calibration stays as it was: {error}")
        return False
    return True


class _KeptError(AnyflowError):
    """Why the calibration that is there is kept."""


def _better(results: Results, bundle: Bundle) -> Calibration:
    new = calibration_of(results)
    if new is None:
        raise _KeptError("no metric of quality was measured (fidelity is none)")
    if results.settings.mean_velocity is False:
        raise _KeptError("budgets are not planned with Euler steps (--euler)")
    if len(new.points) < 2:
        raise _KeptError("one step count is no curve; give --steps two or more")
    try:
        old = read_calibration(bundle.calibration_path, bundle.id)
    except BundleError:
        return new  # nothing can be planned with a damaged one
    if old is None:
        return new
    anyway = f"remove {bundle.calibration_path} to have this run's"
    if new.metric != old.metric:
        raise _KeptError(f"it is of {old.metric}, and this run of {new.metric}; {anyway}")
    if _videos(new) < _videos(old) or len(new.points) < len(old.points):
        found = f"{_videos(old)} videos at {len(old.points)} step counts"
        raise _KeptError(f"it has {found}, and this run {_videos(new)} at {len(new.points)}; {anyway}")
    measured = {(edge.start, edge.end) for edge in new.edges}
    kept = tuple(edge for edge in old.edges if (edge.start, edge.end) not in measured)
    return replace(new, edges=new.edges + kept)


def _videos(calibration: Calibration) -> int:
    """Videos behind the point that has fewest."""
    return min((point.n for point in calibration.points), default=0)
