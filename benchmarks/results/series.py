"""Several results drawn as one: the quality of other checkpoints as further series beside the first's.

`only_score` leaves of a result what such a drawing needs: small enough to be kept beside the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from anyflow_rt.benchmarks.results.values import SHIPPED, Results, ResultsError


def with_series(results: Results, others: Mapping[str, Results]) -> Results:
    """``results`` with the scores of ``others``, each under its name. Times, machine and versions stay the first's.

    Raises ResultsError for a name that is taken, and for one that measured other videos: (prompt, seed) pairs differ.
    """
    taken = {each.series for each in results.quality}
    videos = {(each.prompt, each.seed) for each in results.quality}
    for name, other in others.items():
        if name in taken or not name:
            raise ResultsError(f"the series {name!r} is there already, or has no name; give another name")
        taken.add(name)
        if {(each.prompt, each.seed) for each in other.quality if each.series == SHIPPED} != videos:
            raise ResultsError(f"the series {name!r} is of other prompts or seeds; measure both with the same options")

    def renamed(field: str) -> tuple:
        return tuple(
            replace(each, series=name)
            for name, other in others.items()
            for each in getattr(other, field)
            if each.series == SHIPPED
        )

    return replace(
        results,
        quality=results.quality + renamed("quality"),
        set_scores=results.set_scores + renamed("set_scores"),
        features=results.features + renamed("features"),
    )


def only_score(results: Results, name: str) -> Results:
    """``results`` with one score of its videos, such as ``shapes.right``, and the times; no other samples of theirs.

    Raises ResultsError where no video has that score.
    """
    quality = tuple(each for each in results.quality if each.metric == name)
    if not quality:
        known = ", ".join(dict.fromkeys(each.metric for each in results.quality)) or "none"
        raise ResultsError(f"no video has the score {name!r}; give one of: {known}")
    return replace(
        results,
        quality=quality,
        metrics=tuple(each for each in results.metrics if each.name == name),
        headline=name,
        set_scores=(),
        features=(),
        jump_errors=(),
    )
