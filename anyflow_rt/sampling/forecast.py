"""When a run will finish, at a confidence: seconds that k more jumps and all that follows stay within.

    required(k) = typical seconds of a jump x ratio now x (k + D) x Q_k(confidence)  +  first calls  +  encoding

D is the decoder's typical time in jumps, ``ratio`` says how fast the machine is now, ``moments`` says what Q_k is and
why it is right for jumps that vary alone and for jumps that bursts slow down together. A stage that this process has
not called yet adds what its first call takes more than a warm one; encoding adds its own quantile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from anyflow_rt.sampling.latency import (
    MAX_JUMPS,
    MAX_RUNS,
    TYPICAL_JUMPS,
    FirstCalls,
    History,
    RunTimes,
    quantile,
)
from anyflow_rt.sampling.look_back import PastRun, look_back
from anyflow_rt.sampling.moments import HORIZONS, PRIOR_WEIGHT, Moments, group_of, prior
from anyflow_rt.sampling.past import TO_DEVIATION, EndedRun, in_order, jump_noise, stage_in_jumps
from anyflow_rt.sampling.ratio import SpeedRatio
from anyflow_rt.sampling.recorder import RunRecorder
from anyflow_rt.sampling.schedule import GRID_INTERVALS

OTHER_STAGES = ("text", "conditioner", "decode", "encode")
INTERPOLATION_MARGIN = 1.25
"""On the spread of predictions that rest on other settings."""
DECODE_GUESS = 4.0
"""Jumps that decoding is taken for where it was never measured."""
FIRST_CALL_GUESS = 2.0
"""Times a warm call that a first call is taken for where none was measured."""
REFRESH_SHARE = 16
"""Tables are made again when one run in this many is new."""
READY_TABLES = 6
"""Of the newest that were asked for, made again before the next run asks."""
SHORTEST = 1e-9
"""Seconds. A clock that stood still does not make a jump free."""


class Forecaster:
    """Predicts the runs of one setting and learns from them. Not thread-safe; one run at a time.

    ``start_run``; ``observe`` every stage as it ends; ``required`` whenever asked; ``end_run`` gives what to store.
    decode, encode: whether runs have these stages. recorder: keeps the runs of the setting, and knows which stages
    this process has yet to call; by default all of them.
    """

    def __init__(
        self, history: History, *, decode: bool = True, encode: bool = False, recorder: RunRecorder | None = None
    ) -> None:
        self._history, self._decode, self._encode = history, decode, encode
        self._ratio = SpeedRatio()
        self._typical = _at_least_a_tick(history.typical("jump"))
        self._typical_is_first_call = False
        self._runs: deque[EndedRun] = deque(maxlen=MAX_RUNS)
        self._new_runs = 0
        self._recorder = RunRecorder(cold=())
        self._levels: list[float] = []
        self._relative = dict.fromkeys(OTHER_STAGES, 0.0) | {"decode": DECODE_GUESS if decode else 0.0}
        self._measured: set[str] = set()
        """Stages whose warm time in jumps is known: they too tell how fast the machine is."""
        self._set_relative(history.runs)
        self._moments = Moments(self._relative["decode"])
        self._tables: dict[tuple[float, int, bool], list[float]] = {}
        if not history.interpolated:
            self._replay(history.runs)
        self._recorder = RunRecorder() if recorder is None else recorder

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

    def start_run(self, *, opening: bool = False) -> None:
        """Forget an unfinished run. opening: see ``RunRecorder.start_run``."""
        self._recorder.start_run(opening=opening)
        self._levels = []

    def observe(self, stage: str, seconds: float) -> None:
        """``text``, ``conditioner``, ``jump``, ``decode`` or ``encode`` took ``seconds``; all but jumps once a run."""
        if stage == "jump":
            seconds = max(seconds, SHORTEST)
            self._observe_jump(seconds, self._recorder.observe(stage, seconds))
        elif not self._recorder.observe(stage, seconds) and stage in self._measured and self._typical:
            relative = self._relative[stage]
            self._ratio.observe(seconds / (relative * self._typical), 0.5 * min(1.0, relative))

    def observe_preview(self, stage: str, seconds: float) -> None:
        """The ``jump``, ``decode`` or ``encode`` of a preview. Its jump too says how fast the machine is."""
        if stage == "jump" and self._typical:
            self._ratio.observe(seconds / self._typical)
        self._recorder.observe_preview(stage, seconds)

    def end_run(self) -> tuple[RunTimes, FirstCalls | None]:
        """Learn from the run, also from one that was cut short: it is over, so no budget pays for that. Returns what to
        store of it."""
        ended = self._end_run()
        if self._new_runs and self._new_runs * REFRESH_SHARE >= len(self._runs):
            self._refresh()
        return ended

    def required(self, confidence: float) -> list[float] | None:
        """Seconds from now that k = 0..32 more jumps and all that follows stay within at ``confidence``."""
        level = self.jump_seconds
        if level is None:
            return None
        after = self._first_calls(("decode", "encode"), confidence)
        if self._encode:
            after += self._encode_jumps(confidence) * level
        jump = self._first_calls(("jump",), confidence)
        found = [level * factor + after + jump for factor in self._table(confidence)]
        found[0] -= jump
        return found

    def smallest_budget(self, confidence: float, steps: int = 1) -> float | None:
        """Seconds that a whole run of ``steps`` jumps stays within; None where nothing is known."""
        required, level = self.required(confidence), self.jump_seconds
        if required is None or level is None:
            return None
        before = (self._relative["text"] + self._relative["conditioner"]) * level * prior(confidence, 1.0)
        return required[steps] + before + self._first_calls(("text", "conditioner"), confidence)

    def preview_seconds(self, confidence: float) -> float:
        """Seconds of one warm jump to 0, its decoding and, where runs have it, encoding; 0 where nothing is known.

        What first calls take more is in ``required``, whether a preview or the result makes them.
        """
        level = self.jump_seconds
        if level is None:
            return 0.0
        jumps = self._table(confidence)[1] + (self._encode_jumps(confidence) if self._encode else 0.0)
        return level * jumps

    def _end_run(self) -> tuple[RunTimes, FirstCalls | None]:
        times, first = self._recorder.end_run()
        if times.jumps:
            self._runs.append(EndedRun(times, [*self._levels, self.jump_seconds or 0.0]))
            self._new_runs += 1
        self._levels = []
        return times, first

    def _observe_jump(self, seconds: float, cold: bool) -> None:
        level = self.jump_seconds
        if self._typical is None or self._typical_is_first_call:
            self._typical, self._typical_is_first_call, self._ratio = seconds, cold, SpeedRatio()
            level = seconds
        elif cold:
            self._ratio.observe(seconds / (self._typical + self._first_call("jump", 0.5)), 0.5)
        else:
            self._ratio.observe(seconds / self._typical)
        if not cold:
            self._levels.append(level or seconds)

    def _first_calls(self, stages: Sequence[str], confidence: float) -> float:
        """What the first calls that these stages still have to make take more than warm ones."""
        cold = self._recorder.cold
        if not cold:
            return 0.0
        skipped = {stage for stage, runs in (("decode", self._decode), ("encode", self._encode)) if not runs}
        extra = sum(self._first_call(stage, confidence) for stage in stages if stage in cold - skipped)
        return extra * max(1.0, self._ratio.value)

    def _first_call(self, stage: str, confidence: float) -> float:
        warm = (self._typical or 0.0) * (1.0 if stage == "jump" else self._relative[stage])
        first = self._history.first_quantile(stage, confidence)
        return max(0.0, first - warm) if first is not None else (FIRST_CALL_GUESS - 1.0) * warm

    def _table(self, confidence: float) -> list[float]:
        """(k + D) Q_k for k = 0..32, never descending."""
        return self._table_of((confidence, group_of(self._ratio.value), not self._recorder.has_jumped))

    def _table_of(self, key: tuple[float, int, bool]) -> list[float]:
        found = self._tables.get(key)
        if found is None:
            margin = INTERPOLATION_MARGIN if self.interpolated else 1.0
            spreads = [self._moments.spread(k, *key, margin) for k in HORIZONS]
            jumps = np.arange(GRID_INTERVALS + 1)
            values = (jumps + self._relative["decode"]) * np.interp(jumps, HORIZONS, spreads)
            found = self._tables[key] = np.maximum.accumulate(values).tolist()
        return found

    def _encode_jumps(self, confidence: float) -> float:
        """The quantile of encoding, in jumps as they were expected then."""
        found = [run.times.encode / run.levels[-1] for run in self._runs if run.times.encode is not None]
        usual = self._relative["encode"] * prior(confidence, self._relative["encode"])
        measured = quantile(found, confidence)
        if measured is None:
            return usual
        return max(measured, usual) if len(found) < PRIOR_WEIGHT else measured

    def _replay(self, runs: Sequence[RunTimes]) -> None:
        """Live through the history again: what would have been expected at each of its moments."""
        noise = jump_noise(runs)
        if noise is not None:
            self._ratio.set_spread(noise)
        for times in runs:
            for stage, seconds in in_order(times):
                self.observe(stage, seconds)
            self._end_run()
        if self._runs:
            self._refresh()

    def _refresh(self) -> None:
        """Typical times, the noise of single jumps, and the moments, of the runs until now."""
        self._new_runs = 0
        while sum(len(run.times.jumps) for run in self._runs) > MAX_JUMPS:
            self._runs.popleft()
        past = [PastRun(run.times.jumps, run.levels, run.times.decode) for run in self._runs]
        self._set_relative([run.times for run in self._runs])
        jumps = np.concatenate([run.jumps for run in past])
        levels = np.concatenate([run.levels[:-1] for run in past])
        typical = float(np.median(jumps[-TYPICAL_JUMPS:]))
        if self._typical:
            self._ratio.rescale(typical / self._typical)
        self._typical = typical
        self._ratio.set_spread(float(TO_DEVIATION * np.median(np.abs(np.log(jumps / levels)))))
        self._moments = look_back(past, self._relative["decode"], typical)
        asked = list(self._tables)[-READY_TABLES:]
        self._tables.clear()
        for key in asked:  # Now, and not while a run waits for its next decision.
            self._table_of(key)

    def _set_relative(self, runs: Sequence[RunTimes]) -> None:
        """Typical times of the other stages in jumps of the same run: right even where the jumps' are not."""
        for stage in OTHER_STAGES:
            if stage == "decode" and not self._decode:
                continue
            share = stage_in_jumps(runs[-TYPICAL_JUMPS:], stage)
            if share is not None:
                self._relative[stage] = share
                self._measured.add(stage)
            elif stage not in self._measured and self._typical:
                first = self._history.first_quantile(stage, 0.5)
                if first:
                    self._relative[stage] = first / self._typical


def _at_least_a_tick(seconds: float | None) -> float | None:
    return None if seconds is None else max(seconds, SHORTEST)
