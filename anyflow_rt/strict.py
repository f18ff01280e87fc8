"""Strict budgets that cannot be met, refused before an engine is opened or a bundle is built."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anyflow_rt.budget import refuse_too_small
from anyflow_rt.engines import registry
from anyflow_rt.errors import BudgetError
from anyflow_rt.latencies import Latencies
from anyflow_rt.loading import is_built, open_bundle
from anyflow_rt.request import make_request, option_names


def refuse_unmeetable(
    bundle: str | Path | None,
    prompt: str | Sequence[str],
    *,
    engine: str | None = None,
    precision: str | None = None,
    started_at: float,
    **options: Any,
) -> None:
    """What ``generate_to_file`` would refuse of a runtime that is yet to be opened. ``options`` are its own, with a
    strict budget.

    Raises BudgetError, also where the bundle would have to be built first, and whatever opening the bundle raises.
    """
    if not is_built(bundle):
        which = "" if bundle is None else f" --bundle {bundle}"
        raise BudgetError(
            f"a strict budget cannot be promised before the {bundle or 'shapes'} checkpoint's bundle is built, which "
            f"takes about a minute; build it with  anyflow-rt calibrate{which}  (it also measures what runs take)",
            None,
        )
    opened = open_bundle(bundle)
    names = option_names()
    request = make_request(
        prompt,
        default_size=opened.defaults.size,
        shift=opened.architecture.scheduler.shift,
        **{name: value for name, value in options.items() if name in names},
    )
    assert request.budget is not None
    name = registry.default_engine() if engine is None else engine
    if name not in registry.available_engines():
        return  # opening it says what is wrong
    usual, _ = registry.default_precision(name)
    latencies = Latencies(opened.id, name)
    forecaster = latencies.begin_forecast(
        request.setting(name, usual if precision is None else precision), decode=True, encode=True
    )
    latencies.abandon()
    rest = forecaster.smallest_budget(request.budget.confidence, request.budget.limits.min_steps)
    refuse_too_small(request.budget, time.perf_counter() - started_at, rest)
