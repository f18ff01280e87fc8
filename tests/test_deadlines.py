"""Deadlines of chunks, on a machine that other work slows down: a clock of the test's, and no network."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from anyflow_rt.budget import planning_tables
from anyflow_rt.deadlines import ChunkDeadlines, Pace, make_forecaster, make_pace
from anyflow_rt.engines.architecture import (
    Architecture,
    CausalConfig,
    SchedulerConfig,
    TextEncoderConfig,
    TransformerConfig,
    VaeConfig,
)
from anyflow_rt.engines.chunks import ChunkLayout, cache_flops, flops, make_layout
from anyflow_rt.engines.geometry import VideoSize, latent_size
from anyflow_rt.errors import UsageError
from anyflow_rt.reader import Reader
from anyflow_rt.result import ChunkReport, StreamReport
from anyflow_rt.sampling.limits import Limits
from anyflow_rt.sampling.quality import fit_quality
from anyflow_rt.sampling.schedule import uniform_plan

SHIFT = 5.0
TRANSFORMER = TransformerConfig(num_attention_heads=12, num_layers=30, ffn_dim=8960)
ARCHITECTURE = Architecture(
    "AnyFlowFARPipeline",
    TRANSFORMER,
    VaeConfig(z_dim=16),
    TextEncoderConfig(1, 4096, 1, 1, 1, 1),
    SchedulerConfig(shift=SHIFT),
    CausalConfig(),
)
JUMP, DECODE = 0.1, 0.01
"""Seconds of a jump of the longest chunk, and of decoding one frame."""
FPS = 23.0
"""What four steps sustain: a chunk of twelve frames lasts 0.52 s and takes 0.43 with what is written after it."""
HELD = (6, 7, 8, 9)
"""Chunks that are made while a reader is away: two in queues, and two that wait to be put there."""


def layout(frames: int) -> ChunkLayout:
    return make_layout(ARCHITECTURE, latent_size(ARCHITECTURE, VideoSize(frames, 480, 832)))


class Clock:
    """``time.perf_counter`` in the test's hands; ``pass_by`` lets work take its time, slowed down as ``load`` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, load: Callable[[float], float]) -> None:
        self.now, self._load = 1000.0, load
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def pass_by(self, seconds: float) -> float:
        taken = seconds * self._load(self.now)
        self.now += taken
        return taken


def bursts(seed: int) -> Callable[[float], float]:
    """Every 10 s on average something else runs for 2 to 5 s, and all takes 2.2 times as long; 5% of noise always."""
    generator = np.random.default_rng(seed)
    gaps, lengths = generator.exponential(8.0, 400) + 2.0, generator.uniform(2.0, 5.0, 400)
    starts = 900.0 + np.cumsum(gaps + lengths)  # some are over, and one may be on, when the stream begins

    def load(now: float) -> float:
        busy = bool(((starts <= now) & (now < starts + lengths)).any())
        return (2.2 if busy else 1.0) * float(generator.lognormal(0, 0.05))

    return load


def play(
    clock: Clock, chunks: ChunkLayout, deadlines: ChunkDeadlines | None, pause: float = 0.0
) -> tuple[StreamReport, list[int]]:
    """One stream; without deadlines every chunk takes four steps. Decoding is another thread's, and keeps up. pause:
    seconds that the reader is away before it takes the chunks of ``HELD``; those are made, and then nothing is."""
    begun, unit = clock.now, flops(chunks, chunks.longest)
    written = [0.0, *cache_flops(chunks)]
    ready, steps, untaken = [], [], 0
    for index in range(len(chunks)):
        clock.pass_by(JUMP * written[index] / unit)
        made = 0
        guide = None if deadlines is None else deadlines.guide(chunks, index)
        while made < 4 if guide is None else (move := guide.next_move()) is not None:
            taken = clock.pass_by(JUMP * flops(chunks, index) / unit)
            made += 1
            if guide is not None:
                guide.made(move, taken)
        frames = chunks.frames(index)
        if deadlines is not None:
            deadlines.decoded(frames, DECODE * frames)
            untaken += 1
            clock.now += pause if index == HELD[-1] else 0.0
            for _ in range(0 if pause and index in HELD[:-1] else untaken):
                deadlines.took()
                untaken -= 1
        ready.append(clock.now - begun + DECODE * frames)
        steps.append(made)
    frames_of = tuple(chunks.frames(index) for index in range(len(chunks)))
    return StreamReport(tuple(ready), frames_of, FPS), steps


def test_deadlines_are_kept_where_a_fixed_choice_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under bursts that four steps cannot sustain, at most 1% of the chunks come late, and most have their four steps.
    The fixed choice stalls in the same streams."""
    chunks, tables = layout(161), planning_tables(fit_quality(None))
    late, late_fixed, played, steps = 0, 0, 0, []
    forecaster = make_forecaster()
    for seed in range(24):
        clock = Clock(monkeypatch, bursts(seed))
        pace = Pace(FPS, None, 0.99, Limits(1, 4))
        deadlines = ChunkDeadlines(pace, tables, forecaster, SHIFT, uniform_plan(4, SHIFT), clock.now)
        report, made = play(clock, chunks, deadlines)
        fixed, _ = play(Clock(monkeypatch, bursts(seed)), chunks, None)
        if seed:  # the first stream learns
            late += sum(stall > 0 for stall in report.stalls)
            late_fixed += sum(stall > 0 for stall in fixed.stalls)
            played += len(chunks) - 1
            steps += made
    figures = f"late {late}, with four steps {late_fixed}, of {played} chunks; {np.mean(steps):.2f} steps on average"
    print(figures)
    assert late <= 0.01 * played, figures
    assert late_fixed >= 0.05 * played, figures
    assert np.mean(steps) >= 3, figures


def test_time_that_is_left_is_spent_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget for each chunk counts from the start: what the short first chunk leaves the second uses."""
    chunks, clock = layout(81), Clock(monkeypatch, lambda now: 1.0)
    forecaster, tables = make_forecaster(), planning_tables(fit_quality(None))
    made: list[int] = []
    for _ in range(3):
        pace = Pace(None, 0.6, 0.9, Limits(1, 32))
        deadlines = ChunkDeadlines(pace, tables, forecaster, SHIFT, uniform_plan(4, SHIFT), clock.now)
        _, made = play(clock, chunks, deadlines)
    told = deadlines.tell(1, ChunkReport(3, made[1], 0.0, 0.0))
    assert told.due == pytest.approx(1.2)
    assert told.predicted is not None and told.predicted <= 1.2 and told.planned_steps is not None
    assert made[0] > made[2], "the first chunk is a third as long"
    assert sum(made) > len(chunks)


@pytest.mark.parametrize(("fps", "seconds"), [(FPS, None), (None, 0.6)])
def test_after_a_reader_that_pauses_steps_are_as_before(
    monkeypatch: pytest.MonkeyPatch, fps: float | None, seconds: float | None
) -> None:
    """What is due moves by as long as it was away: no chunk makes up for that."""
    chunks, forecaster, tables = layout(161), make_forecaster(), planning_tables(fit_quality(None))
    made: list[list[int]] = []
    for pause in (0.0, 0.0, 12.0):
        clock = Clock(monkeypatch, lambda now: 1.0)
        pace = Pace(fps, seconds, 0.95, Limits(1, 4))
        deadlines = ChunkDeadlines(pace, tables, forecaster, SHIFT, uniform_plan(4, SHIFT), clock.now)
        made.append(play(clock, chunks, deadlines, pause)[1])
    after = HELD[-1] + 1
    assert min(made[1]) > 1 and sum(made[2][after:]) >= sum(made[1][after:]), made
    assert min(made[2]) >= min(made[1]), made


def test_when_a_reader_needs_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, reader = Clock(monkeypatch, lambda now: 1.0), Reader()
    frames = (1, 4, 4, 4)
    assert reader.plays(frames, 2.0, 1) == 1000.0 + 2.0 + 0.5, "nothing is there yet"
    for ready, taken in ((1001.0, 1001.0), (1003.0, 1003.0), (1006.5, 1009.0)):
        clock.now = ready
        reader.arrived()
        clock.now = taken
        assert reader.plays(frames, 2.0, 3) == pytest.approx(max(1005.5, taken) + 2.0), "nor is it played before"
        reader.took()
    # Of 3 s each from 1000 on, the third chunk was there in time and lay there till the reader came.
    assert reader.expects(1000.0, 3.0, 3) == pytest.approx(1012.0), "due at 1009, and taken then"
    assert reader.expects(1000.0, 2.0, 3) == pytest.approx(1008.0 + 2.5), "late, and then it lay there for 2.5 s"
    assert reader.expects(1000.0, 1.0, 2) == pytest.approx(1003.0), "a chunk that is late moves nothing"


def test_stalls_are_those_of_a_player() -> None:
    report = StreamReport(ready=(1.0, 3.0, 6.5, 6.6), frames=(1, 4, 4, 4), fps=2.0)
    assert (report.first_frame, report.lead) == (1.0, 2.0)
    # Played from 3.0: the frames of the second chunk from 3.5, of the third from 5.5: it comes a second late.
    assert report.stalls == (0.0, 0.0, 1.0, 0.0)
    assert report.stall_ratio == pytest.approx(1 / 3)
    assert report.jitter == pytest.approx(np.std([2.0, 3.5, 0.1]))


def test_the_cost_of_chunks() -> None:
    """At the released 1.3B's sizes; docs/causal.md has these figures."""
    for frames, ratio, passes in ((81, 1.12, (28, 17)), (161, 1.37, (105, 38)), (321, 1.86, (378, 77))):
        chunks = layout(frames)
        whole, incremental = (cache_flops(chunks, incremental=kind) for kind in (False, True))
        assert sum(whole) / sum(incremental) == pytest.approx(ratio, abs=0.005)
        counted = [
            sum(len(chunks.to_write(finished, incremental=kind)) for finished in range(1, len(chunks)))
            for kind in (False, True)
        ]
        assert tuple(counted) == passes
    jumps = [flops(layout(321), index) for index in range(3, 27)]
    assert max(np.diff(jumps) / jumps[0]) < 0.05, "a chunk costs what it attends to more than the one before"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fps": 8.0, "seconds": None, "causal": False}, "for causal checkpoints"),
        ({"fps": 8.0, "seconds": 1.0, "causal": True}, "both given"),
        ({"fps": None, "seconds": -1, "causal": True}, "budget_per_chunk is -1"),
        ({"fps": 8.0, "seconds": None, "causal": True, "min_steps": 8, "steps": 4}, "min_steps 8 is more than"),
    ],
)
def test_bad_paces(options: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make_pace(**options)
