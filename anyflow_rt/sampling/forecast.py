"""When a run will finish, at a confidence: quantiles of what several jumps and the decoder will take.

The time of k jumps is not k times the quantile of one (too late, if they vary independently), nor their mean plus
sqrt(k) of something (too early, if a burst of other work slows all of them down). Neither is assumed. At every jump
of the past the level L, the seconds expected of a jump there and then (typical seconds times ``SpeedRatio``), was
kept. Looking back, what the next k jumps and the decoder really took, over what was expected of them, is

    e_k = (x_1 + ... + x_k + d) / (L (k + D))          D: the decoder's typical time in jumps

at each of those moments, and required(k) = L_now (k + D) Q_k(confidence), Q_k the quantile of e_k. Independent
noise averages out in e_k, a spike counts once, bursts that begin within k jumps and a ratio that reacts late are in
it as often as they happened. Moments are grouped by how fast the machine was then (slow machines recover, fast ones do
not get faster), and only the present group's count where there are enough. Before a run's first jump, what runs share
is still unknown: there the larger counts of that Q_k and of the one over past runs' starts (a run shorter than k
standing for one of k, as if it had gone on like that). With few moments n, Q_k is
drawn towards the prior 1 + z sqrt(w^2 / (k + D) + b^2) (z the normal quantile, w independent, b common spread):
(m Q + PRIOR_WEIGHT prior) / (m + PRIOR_WEIGHT), m = n / sqrt(k), as overlapping moments tell less than n.

First calls of a stage in a process add what they took more than warm ones; encoding adds its own quantile.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from anyflow_rt.sampling.latency import MAX_JUMPS, MAX_RUNS, STAGES, TYPICAL_JUMPS, FirstCalls, History, RunTimes
from anyflow_rt.sampling.ratio import SpeedRatio
from anyflow_rt.sampling.schedule import GRID_INTERVALS

HORIZONS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
SLOW, FAST = 1.3, 0.77
"""Ratios of the level to the typical jump beyond which a moment counts as slow or fast."""
ALL, IN_FAST, IN_USUAL, IN_SLOW, STARTS = range(5)
ENOUGH_MOMENTS = 64
NO_MOMENTS = np.zeros(0)
PRIOR_WEIGHT = 16.0
PRIOR_INDEPENDENT, PRIOR_COMMON = 0.1, 0.1
INTERPOLATION_MARGIN = 1.25
DECODE_GUESS = 4.0
"""Jumps that decoding is taken for where it was never measured."""
FIRST_CALL_GUESS = 2.0
"""Times a warm call that a first call is taken for where none was measured."""
TO_DEVIATION = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
REFRESH_SHARE = 16
"""Tables are made again when the history has changed by one run in this many."""


@dataclass
class _Run:
    """One run as it was observed. ``levels``: what was expected of each jump when it began, and at the end."""

    seconds: dict[str, float] = field(default_factory=dict)
    jumps: list[float] = field(default_factory=list)
    levels: list[float] = field(default_factory=list)
    first_level: float | None = None
    first: dict[str, float] = field(default_factory=dict)


class Forecaster:
    """Predicts the runs of one setting and learns from them. Not thread-safe; one run at a time.

    ``start_run``; ``observe`` every stage as it ends; ``required`` whenever asked; ``end_run`` gives what to store.
    decode, encode: whether runs have these stages. warm: whether every stage was already called in this process.
    """

    def __init__(self, history: History, *, decode: bool = True, encode: bool = False, warm: bool = False) -> None:
        self._history, self._decode, self._encode = history, decode, encode
        self._ratio = SpeedRatio()
        self._typical = history.typical("jump")
        self._provisional = False
        self._runs: deque[_Run] = deque(maxlen=MAX_RUNS)
        self._cold: set[str] = set()
        self._compared: set[str] = set()
        """Stages whose warm time in jumps was measured: those that tell how fast the machine is."""
        self._run = _Run()
        self._since_refresh = 0
        self._relative = dict.fromkeys(STAGES, 0.0) | {"decode": DECODE_GUESS if decode else 0.0}
        self._moments: dict[tuple[int, int], np.ndarray] = {}
        self._factors: dict[tuple[float, int, bool], list[float]] = {}
        self._set_relative([_Run(_stages(run), list(run.jumps)) for run in history.runs])
        if not history.interpolated:
            self._replay(history)
        self._cold = set() if warm else set(STAGES)

    @property
    def measured(self) -> bool:
        """Whether anything is known of a jump's time; ``required`` is None otherwise."""
        return self._typical is not None

    @property
    def interpolated(self) -> bool:
        """Whether predictions rest on other settings' measurements."""
        return self._history.interpolated and not self._runs

    @property
    def ratio(self) -> float:
        """Observed / typical seconds, now."""
        return self._ratio.value

    @property
    def jump_seconds(self) -> float | None:
        """What is expected of a warm jump now; None where nothing is known."""
        return None if self._typical is None else self._typical * self._ratio.value

    def start_run(self) -> None:
        """Forget an unfinished run, and bring the tables up to date."""
        self._run = _Run()
        if self._since_refresh * REFRESH_SHARE >= len(self._runs) and self._since_refresh:
            self._refresh()

    def observe(self, stage: str, seconds: float) -> None:
        """A stage took ``seconds``: text, conditioner, jump, decode, encode; the others' once a run, in order."""
        run, level = self._run, self.jump_seconds
        if run.first_level is None:
            run.first_level = level
        cold = stage in self._cold
        if stage == "jump":
            self._observe_jump(seconds, level, cold)
        else:
            (run.first if cold else run.seconds)[stage] = seconds
            expected = self._relative[stage] * (self._typical or 0.0)
            if expected > 0 and not cold and stage in self._compared:
                self._ratio.observe(seconds / expected, 0.5 * min(1.0, self._relative[stage]))
        self._cold.discard(stage)

    def observe_preview(self, jump_seconds: float) -> None:
        """The jump of a preview: it says how fast the machine is, and is no part of the run's history."""
        if self._typical:
            self._ratio.observe(jump_seconds / self._typical)

    def end_run(self) -> tuple[RunTimes, FirstCalls | None]:
        """Learn from the run; what to store of it. Also of one that was cut short."""
        run, self._run = self._run, _Run()
        run.levels.append(self.jump_seconds or 0.0)
        if run.jumps:
            self._runs.append(run)
            self._since_refresh += 1
        times = RunTimes(jumps=tuple(run.jumps), **run.seconds)
        return times, FirstCalls(**run.first) if run.first else None

    def required(self, confidence: float) -> list[float] | None:
        """Seconds from now that k = 0..32 more jumps and all that follows stay within at ``confidence``."""
        level = self.jump_seconds
        if level is None:
            return None
        factors = self._table(confidence)
        later = (self._encode_factor(confidence) * level if self._encode else 0.0) + self._cold_extra(
            ("decode", "encode"), confidence
        )
        jump = self._cold_extra(("jump",), confidence)
        found = [level * factor + later + jump for factor in factors]
        found[0] -= jump
        return found

    def smallest_budget(self, confidence: float, steps: int = 1) -> float | None:
        """Seconds that a whole run of ``steps`` jumps stays within; None where nothing is known."""
        required, level = self.required(confidence), self.jump_seconds
        if required is None or level is None:
            return None
        prior = self._prior(confidence, 1.0)
        before = sum(self._relative[stage] for stage in ("text", "conditioner")) * level * prior
        return required[steps] + before + self._cold_extra(("text", "conditioner"), confidence)

    def preview_seconds(self, confidence: float) -> float:
        """Seconds of one jump to 0 and its decoding; 0 where nothing is known."""
        return (self.jump_seconds or 0.0) * self._table(confidence)[1]

    def _observe_jump(self, seconds: float, level: float | None, cold: bool) -> None:
        run = self._run
        if self._typical is None or self._provisional:
            self._typical, self._provisional, self._ratio = seconds, cold, SpeedRatio()
            level = seconds
        elif cold:
            self._ratio.observe(seconds / (self._typical + self._first_call("jump", 0.5)), 0.5)
        else:
            self._ratio.observe(seconds / self._typical)
        if cold:
            run.first["jump"] = seconds
        else:
            run.jumps.append(seconds)
            run.levels.append(level or seconds)

    def _cold_extra(self, stages: tuple[str, ...], confidence: float) -> float:
        """What the first calls that these stages still have to make take more than warm ones."""
        skipped = {stage for stage, runs in (("decode", self._decode), ("encode", self._encode)) if not runs}
        extra = sum(self._first_call(stage, confidence) for stage in stages if stage in self._cold - skipped)
        return extra * max(1.0, self._ratio.value)

    def _first_call(self, stage: str, confidence: float) -> float:
        """What a first call takes more than a warm one."""
        warm = (self._typical or 0.0) * (1.0 if stage == "jump" else self._relative[stage])
        first = self._history.first_quantile(stage, confidence)
        return max(0.0, first - warm) if first is not None else (FIRST_CALL_GUESS - 1.0) * warm

    def _table(self, confidence: float) -> list[float]:
        """(k + D) Q_k for k = 0..32, never descending."""
        level = self._ratio.value
        group = IN_SLOW if level > SLOW else IN_FAST if level < FAST else IN_USUAL
        starting = not self._run.jumps and "jump" not in self._run.first
        found = self._factors.get((confidence, group, starting))
        if found is None:
            decode = self._relative["decode"]
            spreads = [self._spread(confidence, group, horizon, starting) for horizon in HORIZONS]
            every = np.interp(np.arange(GRID_INTERVALS + 1), HORIZONS, spreads)
            values = (np.arange(GRID_INTERVALS + 1) + decode) * every
            found = self._factors[confidence, group, starting] = np.maximum.accumulate(values).tolist()
        return found

    def _spread(self, confidence: float, group: int, horizon: int, starting: bool) -> float:
        """Q_k. ``starting``: the run has made no jump yet."""
        margin = INTERPOLATION_MARGIN if self.interpolated else 1.0
        prior = self._prior(confidence, horizon + self._relative["decode"]) * margin
        moments = self._moments.get((group, horizon), NO_MOMENTS)
        if len(moments) < ENOUGH_MOMENTS:
            moments = self._moments.get((ALL, horizon), NO_MOMENTS)
        found = _shrunk(moments, confidence, prior, len(moments) / math.sqrt(max(1, horizon)))
        starts = self._moments.get((STARTS, horizon), NO_MOMENTS)
        if starting and len(starts) >= ENOUGH_MOMENTS:
            found = max(found, _shrunk(starts, confidence, prior, len(starts)))
        return found

    @staticmethod
    def _prior(confidence: float, jumps: float) -> float:
        spread = math.sqrt(PRIOR_INDEPENDENT**2 / max(jumps, 0.5) + PRIOR_COMMON**2)
        return max(1.0, 1.0 + statistics.NormalDist().inv_cdf(confidence) * spread)

    def _encode_factor(self, confidence: float) -> float:
        """The quantile of encoding, in jumps as they were expected then."""
        found = sorted(run.seconds["encode"] / run.levels[-1] for run in self._runs if _has(run, "encode"))
        prior = self._relative["encode"] * self._prior(confidence, self._relative["encode"])
        if not found:
            return prior
        rank = min(math.ceil((len(found) + 1) * confidence), len(found)) - 1
        return max(found[rank], prior) if len(found) < PRIOR_WEIGHT else found[rank]

    def _replay(self, history: History) -> None:
        """Live through the history again: what would have been expected at each of its moments."""
        noise = [abs(math.log(x / middle)) for run in history.runs if (middle := _middle(run)) for x in run.jumps if x]
        if noise:
            self._ratio.set_spread(TO_DEVIATION * statistics.median(noise))
        for times in history.runs:
            self._run = _Run()
            for stage in ("text", "conditioner"):
                self._observe_if(stage, getattr(times, stage))
            for seconds in times.jumps:
                self.observe("jump", seconds)
            for stage in ("decode", "encode"):
                self._observe_if(stage, getattr(times, stage))
            self.end_run()
        if self._runs:
            self._refresh()

    def _observe_if(self, stage: str, seconds: float | None) -> None:
        if seconds is not None:
            self.observe(stage, seconds)

    def _refresh(self) -> None:
        """Typical times, the noise of single jumps, and e_k at every moment of the past."""
        self._since_refresh = 0
        self._factors.clear()
        runs = list(self._runs)
        self._set_relative(runs)
        jumps = np.array([seconds for run in runs for seconds in run.jumps])[-MAX_JUMPS:]
        levels = np.array([level for run in runs for level in run.levels[:-1]])[-MAX_JUMPS:]
        typical = float(np.median(jumps[-TYPICAL_JUMPS:]))
        if self._typical:
            self._ratio.rescale(typical / self._typical)
        self._typical = typical
        self._ratio.set_spread(float(TO_DEVIATION * np.median(np.abs(np.log(jumps / levels)))))
        self._moments = self._look_back(runs, jumps, levels, typical)

    def _look_back(
        self, runs: list[_Run], jumps: np.ndarray, levels: np.ndarray, typical: float
    ) -> dict[tuple[int, int], np.ndarray]:
        """Sorted e_k by (group, k)."""
        decode = self._relative["decode"]
        tails = [run.seconds.get("decode", math.nan) if self._decode else 0.0 for run in runs]
        ends = np.array(tails)
        if np.isnan(ends).all():  # only first calls were seen, and those are added on their own
            ends = np.array([decode * run.levels[-1] for run in runs])
        tail = np.repeat(ends, [len(run.jumps) for run in runs])[-len(jumps) :]
        group = np.where(levels > SLOW * typical, IN_SLOW, np.where(levels < FAST * typical, IN_FAST, IN_USUAL))
        total = np.concatenate([[0.0], np.cumsum(jumps)])
        found: dict[tuple[int, int], np.ndarray] = {}
        for horizon in HORIZONS:
            if horizon == 0:
                last = np.array([run.levels[-1] for run in runs])
                errors, groups = ends / (last * max(decode, 1e-9)), np.full(len(ends), IN_USUAL)
            elif horizon > len(jumps):
                continue
            else:
                count = len(jumps) - horizon + 1
                took = total[horizon:] - total[:-horizon] + tail[horizon - 1 :]
                errors, groups = took / (levels[:count] * (horizon + decode)), group[:count]
            kept = np.isfinite(errors)
            errors, groups = errors[kept], groups[kept]
            found[ALL, horizon] = np.sort(errors)
            for each in (IN_FAST, IN_USUAL, IN_SLOW):
                found[each, horizon] = np.sort(errors[groups == each])
            if horizon:
                found[STARTS, horizon] = _from_starts(runs, horizon, decode)
        return found

    def _set_relative(self, runs: list[_Run]) -> None:
        """Typical times of the other stages in jumps of the same run: right even where the jumps' are not."""
        for stage in ("text", "conditioner", "decode", "encode"):
            shares = [run.seconds[stage] / statistics.median(run.jumps) for run in runs if _has(run, stage)]
            if stage == "decode" and not self._decode:
                continue
            if shares:
                self._relative[stage] = statistics.median(shares[-TYPICAL_JUMPS:])
                self._compared.add(stage)
            elif (first := self._history.first_quantile(stage, 0.5)) and self._typical:
                self._relative[stage] = first / self._typical


def _shrunk(moments: np.ndarray, confidence: float, prior: float, weight: float) -> float:
    """The quantile of sorted moments, drawn towards the prior's as if that were ``PRIOR_WEIGHT`` of them."""
    if not len(moments):
        return prior
    rank = min(math.ceil((len(moments) + 1) * confidence), len(moments)) - 1
    return (weight * float(moments[rank]) + PRIOR_WEIGHT * prior) / (weight + PRIOR_WEIGHT)


def _from_starts(runs: list[_Run], horizon: int, decode: float) -> np.ndarray:
    """Sorted e_k at the first jumps of the runs whose decoding was measured."""
    found = []
    for run in runs:
        tail = run.seconds.get("decode") if decode else 0.0
        if tail is not None:
            jumps = run.jumps[:horizon]
            found.append((sum(jumps) + tail) / (run.levels[0] * (len(jumps) + decode)))
    return np.sort(np.array(found))


def _has(run: _Run, stage: str) -> bool:
    return stage in run.seconds and bool(run.jumps) and min(run.jumps) > 0


def _middle(times: RunTimes) -> float | None:
    """The run's median jump, where it has several."""
    return statistics.median(times.jumps) if len(times.jumps) > 1 else None


def _stages(times: RunTimes) -> dict[str, float]:
    every = {stage: getattr(times, stage) for stage in ("text", "conditioner", "decode", "encode")}
    return {stage: seconds for stage, seconds in every.items() if seconds is not None}
