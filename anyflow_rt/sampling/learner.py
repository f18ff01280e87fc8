"""What runs of one setting took: how fast the machine is now, and every moment of the past that tells how it goes on.

A jump is expected to take its typical time, times the ratio of what was observed to that; all other stages are measured
in jumps of their own run, but for the decoder, which has a level of its own (``decode_level``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from anyflow_rt.sampling.decode_level import decode_level
from anyflow_rt.sampling.latency import MAX_JUMPS, MAX_RUNS, TYPICAL_JUMPS, FirstCalls, History, RunTimes
from anyflow_rt.sampling.look_back import PastRun, look_back
from anyflow_rt.sampling.moments import Moments
from anyflow_rt.sampling.past import TO_DEVIATION, EndedRun, in_order, jump_noise, stage_in_jumps
from anyflow_rt.sampling.ratio import SpeedRatio
from anyflow_rt.sampling.recorder import RunRecorder

OTHER_STAGES = ("text", "conditioner", "decode", "encode")
DECODE_GUESS = 4.0
"""Jumps that decoding is taken for where it was never measured."""
FIRST_CALL_GUESS = 2.0
"""Times a warm call that a first call is taken for where none was measured."""
REFRESH_SHARE = 16
"""The past is looked at again when one run in this many is new."""
SHORTEST = 1e-9
"""Seconds. A clock that stood still does not make a jump free."""


class Learner:
    """Of one setting. Not thread-safe; one run at a time.

    ``start_run``; ``observe`` every stage as it ends; ``end_run`` gives what to store. decode, encode: whether runs
    have these stages. recorder: keeps the runs of the setting, and knows which stages this process has yet to call; by
    default all of them.
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
        self._decode_began: float | None = None
        """The level of this run's jumps when it was decoded."""
        self._relative = dict.fromkeys(OTHER_STAGES, 0.0) | {"decode": DECODE_GUESS if decode else 0.0}
        self._measured: set[str] = set()
        """Stages whose warm time in jumps is known: they too tell how fast the machine is."""
        self._set_relative(history.runs)
        self._last_decode: tuple[float, float] | None = None
        """Seconds, and the level then."""
        self._moments = Moments(self._relative["decode"])
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
        self._levels, self._decode_began = [], None

    def observe(self, stage: str, seconds: float) -> None:
        """``text``, ``conditioner``, ``jump``, ``decode`` or ``encode`` took ``seconds``; all but jumps once a run."""
        if stage == "jump":
            seconds = max(seconds, SHORTEST)
            self._observe_jump(seconds, self._recorder.observe(stage, seconds))
        elif not self._recorder.observe(stage, seconds) and stage in self._measured and self._typical:
            relative, level = self._relative[stage], self._typical * self._ratio.value
            expected = self._decode_level(level) / level if stage == "decode" else relative
            self._ratio.observe(seconds / (expected * self._typical), 0.5 * min(1.0, relative))
            if stage == "decode":
                self._last_decode, self._decode_began = (max(seconds, SHORTEST), level), level

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

    def _end_run(self) -> tuple[RunTimes, FirstCalls | None]:
        times, first = self._recorder.end_run()
        if times.jumps:
            self._runs.append(EndedRun(times, [*self._levels, self._decode_began or self.jump_seconds or 0.0]))
            self._new_runs += 1
        self._levels, self._decode_began = [], None
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

    def _first_call(self, stage: str, confidence: float) -> float:
        warm = (self._typical or 0.0) * (1.0 if stage == "jump" else self._relative[stage])
        first = self._history.first_quantile(stage, confidence)
        return max(0.0, first - warm) if first is not None else (FIRST_CALL_GUESS - 1.0) * warm

    def _decode_level(self, level: float) -> float:
        """Seconds expected of decoding where a jump is expected to take ``level``."""
        if self._last_decode is None or not self._decode:
            return self._relative["decode"] * level
        return float(decode_level(*self._last_decode, level))

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
