"""When a run will finish: the seconds of k more jumps and all that follows, at a confidence, or the chance of a time.

    seconds(k) = (k L + D) x multiple  +  first calls  +  encoding

L is the typical seconds of a jump times the ratio that says how fast the machine is now, D what is expected of the
decoder (``decode_level``); ``moments`` says which multiples are right for jumps that vary alone and for jumps that
bursts slow down together. A stage that this process has not called yet adds what its first call takes more than a warm
one; encoding adds its own quantile.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from anyflow_rt.sampling.latency import History, quantile
from anyflow_rt.sampling.learner import SHORTEST, Learner
from anyflow_rt.sampling.moments import HORIZONS, PRIOR_WEIGHT, group_of, prior
from anyflow_rt.sampling.recorder import RunRecorder
from anyflow_rt.sampling.schedule import GRID_INTERVALS

INTERPOLATION_MARGIN = 1.25
"""On the spread of predictions that rest on other settings."""
READY_TABLES = 6
"""Of the newest that were asked for, made again before the next run asks."""
MULTIPLES = np.concatenate([[0.0, 0.5], np.linspace(0.8, 1.5, 141), np.geomspace(1.51, 32.0, 100)])
"""Of what is expected: where chances are looked up; between them they are interpolated."""
_WEIGHTS = np.transpose([np.interp(range(GRID_INTERVALS + 1), HORIZONS, one) for one in np.eye(len(HORIZONS))])
"""(33, horizons): how a figure of any number of jumps is made of those that are looked at."""


class Forecaster(Learner):
    """Predicts the runs of one setting and learns from them. Not thread-safe; one run at a time.

    ``start_run``; ``observe`` every stage as it ends; ``required`` whenever asked; ``end_run`` gives what to store.
    """

    def __init__(
        self, history: History, *, decode: bool = True, encode: bool = False, recorder: RunRecorder | None = None
    ) -> None:
        self._tables: dict[tuple[float, int, bool], list[float]] = {}
        self._chance_tables: dict[tuple[int, bool], np.ndarray] = {}
        super().__init__(history, decode=decode, encode=encode, recorder=recorder)

    def required(self, confidence: float) -> list[float] | None:
        """Seconds from now that k = 0..32 more jumps and all that follows stay within at ``confidence``."""
        level = self.jump_seconds
        if level is None:
            return None
        decode, extra = self._decode_level(level), self._extra(level, confidence)
        multiples = self._multiples(confidence)
        found = [(jumps * level + decode) * multiple + extra for jumps, multiple in enumerate(multiples)]
        found[0] -= self._first_calls(("jump",), confidence)
        return list(accumulate(found, max))

    def chances(self, available: Sequence[float], confidence: float) -> list[float]:
        """That k = 0..32 more jumps and all that follows take no longer than ``available[k]`` seconds, never rising
        from k = 1 on. confidence: of what is not counted in jumps. All 1 where nothing is known."""
        level = self.jump_seconds
        if level is None:
            return [1.0] * len(available)
        decode, extra = self._decode_level(level), self._extra(level, confidence)
        jumps = np.arange(len(available))
        multiples = (np.array(available) - extra) / np.maximum(jumps * level + decode, SHORTEST)
        table = self._chance_table((group_of(self._ratio.value), not self._recorder.has_jumped))
        right = np.clip(np.searchsorted(MULTIPLES, multiples), 1, len(MULTIPLES) - 1)
        below, above = table[jumps, right - 1], table[jumps, right]
        share = (multiples - MULTIPLES[right - 1]) / (MULTIPLES[right] - MULTIPLES[right - 1])
        found = below + (above - below) * np.clip(share, 0.0, 1.0)
        return [float(found[0]), *np.minimum.accumulate(found[1:]).tolist()]

    def _extra(self, level: float, confidence: float) -> float:
        """Seconds of what a run with jumps still has to do beside them and decoding."""
        first = self._first_calls(("jump", "decode", "encode"), confidence)
        return first + (self._encode_jumps(confidence) * level if self._encode else 0.0)

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
        encode = level * self._encode_jumps(confidence) if self._encode else 0.0
        return (level + self._decode_level(level)) * self._multiples(confidence)[1] + encode

    def _first_calls(self, stages: Sequence[str], confidence: float) -> float:
        """What the first calls that these stages still have to make take more than warm ones."""
        cold = self._recorder.cold
        if not cold:
            return 0.0
        skipped = {stage for stage, runs in (("decode", self._decode), ("encode", self._encode)) if not runs}
        extra = sum(self._first_call(stage, confidence) for stage in stages if stage in cold - skipped)
        return extra * max(1.0, self._ratio.value)

    @property
    def _margin(self) -> float:
        return INTERPOLATION_MARGIN if self.interpolated else 1.0

    def _multiples(self, confidence: float) -> list[float]:
        """Of what is expected of k = 0..32 jumps and the decoder."""
        return self._table((confidence, group_of(self._ratio.value), not self._recorder.has_jumped))

    def _table(self, key: tuple[float, int, bool]) -> list[float]:
        found = self._tables.get(key)
        if found is None:
            multiples = [self._moments.multiple(jumps, *key, self._margin) for jumps in HORIZONS]
            found = self._tables[key] = np.interp(range(GRID_INTERVALS + 1), HORIZONS, multiples).tolist()
        return found

    def _chance_table(self, key: tuple[int, bool]) -> np.ndarray:
        """(33, MULTIPLES): the chance of k = 0..32 jumps and the decoder."""
        found = self._chance_tables.get(key)
        if found is None:
            known = [self._moments.chance(jumps, MULTIPLES, *key, self._margin) for jumps in HORIZONS]
            found = self._chance_tables[key] = _WEIGHTS @ np.array(known)
        return found

    def _encode_jumps(self, confidence: float) -> float:
        """The quantile of encoding, in jumps as they were expected then."""
        found = [run.times.encode / run.levels[-1] for run in self._runs if run.times.encode is not None]
        usual = self._relative["encode"] * prior(confidence, self._relative["encode"])
        measured = quantile(found, confidence)
        if measured is None:
            return usual
        return max(measured, usual) if len(found) < PRIOR_WEIGHT else measured

    def _refresh(self) -> None:
        super()._refresh()
        asked = list(self._tables)[-READY_TABLES:]
        self._tables.clear()
        situations = list(self._chance_tables)
        self._chance_tables.clear()
        # Now, and not while a run waits for its next decision.
        for key in asked:
            self._table(key)
        for situation in situations:
            self._chance_table(situation)
