"""Times of shapes that were never measured, from those that were.

Of one engine and precision, the seconds of a jump of B videos with L tokens each are taken for

    a + B (b L + c L^2)            a: launching; b: linear layers; c: attention

and those of decoding and encoding for the same without c. a, b, c >= 0 are fitted by least squares on relative
errors; no more of them than shapes were measured, and among fits as good the earlier of: a and b, b, b and c, c ...
With one shape that is seconds proportional to tokens, too few for much larger shapes: what comes out is marked as
interpolated, ``forecast`` widens it, and the run's first jump corrects it. First calls are those of the nearest shape:
most of what they take is opening engines, which knows no shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anyflow_rt.sampling.latency import History, Profile, RunTimes, Setting

SUBSETS = ((1,), (0, 1), (1, 2), (2,), (0, 2), (0,), (0, 1, 2))
"""Of a, b, c; in the order they are preferred in among those of the same size."""
NO_BETTER = 1e-6
"""Difference of two fits' mean squared relative errors that is rounding."""


def history_for(profile: Profile, setting: Setting) -> History:
    """The setting's own history where it has jumps, else one made up from the other settings of its engine and
    precision (``interpolated``), else an empty one."""
    own = profile.history(setting)
    if own.seconds("jump"):
        return own
    others = {
        other: history
        for other, history in profile.histories.items()
        if (other.engine, other.precision) == (setting.engine, setting.precision) and history.seconds("jump")
    }
    if not others:
        return own
    jump = _fit(setting, others, "jump", (0, 1, 2))
    nearest = min(others, key=lambda other: abs(np.log(_size(other) / _size(setting))))
    made = RunTimes(
        text=_typical(others[nearest], "text"),
        conditioner=_typical(others[nearest], "conditioner"),
        jumps=() if jump is None else (jump,),
        decode=_fit(setting, others, "decode", (0, 1)),
        encode=_fit(setting, others, "encode", (0, 1)),
    )
    return History((made,), own.first or others[nearest].first, interpolated=True)


def fit_seconds(
    points: Sequence[tuple[float, float, float]], terms: Sequence[int] = (0, 1, 2)
) -> tuple[float, float, float]:
    """(a, b, c) of points (B, L, seconds), all above 0; ``terms``: which of a, b, c may be other than 0."""
    batch, tokens, seconds = np.array(points, float).T
    features = np.stack([np.ones_like(tokens), batch * tokens, batch * tokens**2], axis=1) / seconds[:, None]
    scale = np.abs(features).max(axis=0)
    shapes = len(set(zip(batch, tokens, strict=True)))
    best, found = np.inf, np.zeros(3)
    for subset in sorted(SUBSETS, key=len):
        if len(subset) > shapes or not set(subset) <= set(terms):
            continue
        columns = list(subset)
        solution = np.linalg.lstsq(features[:, columns] / scale[columns], np.ones(len(seconds)), rcond=None)[0]
        error = float(np.mean((features[:, columns] / scale[columns] @ solution - 1.0) ** 2))
        if (solution >= 0).all() and error < best - NO_BETTER:
            best, found = error, np.zeros(3)
            found[columns] = solution / scale[columns]
    return float(found[0]), float(found[1]), float(found[2])


def _fit(setting: Setting, others: dict[Setting, History], stage: str, terms: tuple[int, ...]) -> float | None:
    calls = {other: 2.0 if other.guided and stage == "jump" else 1.0 for other in (*others, setting)}
    points = [
        (other.batch, other.tokens, seconds / calls[other])
        for other, history in others.items()
        if (seconds := _typical(history, stage))
    ]
    if not points:
        return None
    a, b, c = fit_seconds(points, terms)
    return calls[setting] * (a + setting.batch * (b * setting.tokens + c * setting.tokens**2))


def _typical(history: History, stage: str) -> float | None:
    """Of warm calls; of first calls where only those were seen."""
    warm = history.typical(stage)
    return history.first_quantile(stage, 0.5) if warm is None else warm


def _size(setting: Setting) -> float:
    return setting.batch * setting.tokens
