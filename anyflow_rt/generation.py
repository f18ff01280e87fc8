"""One call: its stages in order, their times, and what they tell of the machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np

from anyflow_rt.components import Components
from anyflow_rt.conditioning import ConditioningSeconds, condition
from anyflow_rt.decoding import decode
from anyflow_rt.encoding import encode
from anyflow_rt.engines import geometry, registry
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.chunks import make_layout
from anyflow_rt.latencies import Latencies
from anyflow_rt.noise import initial_noise
from anyflow_rt.preview import Preview
from anyflow_rt.prompt import PromptTokenizer
from anyflow_rt.prompt_cache import PromptCache
from anyflow_rt.request import Request
from anyflow_rt.result import ChunkReport, Result, Seconds, StreamReport
from anyflow_rt.sampling.callbacks import ON_PREVIEW, ON_STEP
from anyflow_rt.sampling.chunked import Chunk, run_chunks
from anyflow_rt.sampling.executor import Jumped, OnStep, Sampling, Step, run_jumps
from anyflow_rt.sampling.guide import Guide, PlanGuide
from anyflow_rt.sampling.recorder import StageObserver

if TYPE_CHECKING:
    from anyflow_rt.budget import BudgetedRun
    from anyflow_rt.deadlines import ChunkDeadlines
    from anyflow_rt.engines.nvml import GpuMeter
    from anyflow_rt.sampling.planner import Tables
    from anyflow_rt.sampling.quality import Quality

T = TypeVar("T")

Deliver = Callable[[int, Iterator[np.ndarray]], tuple[np.ndarray | None, tuple[Path, ...]]]
"""Takes the jumps before a draft and its frames in pieces (N, t, H, W, 3); gives the frames, or their files."""

Between = Callable[[], object]
"""Called after every jump; what it raises ends the run."""


@dataclass(frozen=True)
class Loaded:
    """A bundle on one engine, with what every call uses. quality: what budgets are planned by; None: the bundle's.
    prompts: embeddings that need no text encoder; None where none are kept."""

    bundle: Bundle
    engine: str
    precision: str
    tokenizer: PromptTokenizer
    components: Components
    latencies: Latencies
    quality: Quality | None = None
    prompts: PromptCache | None = None

    @cached_property
    def tables(self) -> Tables:
        """What plans are looked up in. Raises BundleError where the bundle's calibration is damaged."""
        from anyflow_rt.budget import measured_quality, planning_tables

        return planning_tables(measured_quality(self.bundle) if self.quality is None else self.quality)


class Generation:
    """Made when the call begins; a context, so that what a run that fails measured is kept too."""

    def __init__(
        self,
        loaded: Loaded,
        request: Request,
        *,
        output: str,
        started_at: float,
        on_step: OnStep | None,
        show: Callable[[Preview], object] = lambda preview: None,
        deadlines: ChunkDeadlines | None = None,
    ) -> None:
        """output: ``frames``, ``latents`` or ``file``. started_at: the ``time.perf_counter`` that seconds count from.
        on_step, show: the caller's, after every jump and every draft; what they take is planned for. deadlines: of the
        chunks of a stream.

        Raises BudgetError where a strict budget cannot be met.
        """
        self._loaded, self._request, self._started_at = loaded, request, started_at
        self._components, self._callbacks = loaded.components, loaded.latencies.callbacks
        self._deadlines = deadlines
        self._on_step = None if on_step is None else self._timed(ON_STEP, on_step)
        self._show = self._timed(ON_PREVIEW, show)
        self._callbacks.start_run((ON_PREVIEW,) if on_step is None else (ON_STEP, ON_PREVIEW))
        self._components.share_cores(deadlines is not None)
        self._waited_before = self._components.seconds_waited
        self._conditioning = ConditioningSeconds(0.0, 0.0)
        self._decode = 0.0
        self._encode = 0.0
        self._draft_decoded = self._arrived = 0.0
        self._decodes = output != "latents"
        self._jumped: Jumped | None = None
        self._kept: list[Chunk] = []
        self._chunks: tuple[ChunkReport, ...] = ()
        self._setting = request.setting(loaded.engine, loaded.precision)
        self._observer, self._budgeted = self._begin(encode=output == "file")
        self._meter = _meter(loaded.engine)
        self._begun = time.perf_counter()

    def denoise(self, deliver: Deliver, between: Between | None = None) -> np.ndarray:
        """Prompt and noise -> final latents (N, F, C, h, w). Drafts go to ``deliver`` before they are shown.

        between: called after every jump too; it may raise to end the run.
        """
        if self._loaded.bundle.architecture.causal is not None:
            return self._arrive(list(self.chunks(between)))
        sampling, noise, context = self._prepare()
        if context is not None:
            sampling = replace(sampling, given=context.shape[1])
            noise[:, : sampling.given] = context
        self._jumped = run_jumps(
            self._components,
            sampling,
            self._guide(),
            noise,
            on_step=self._after_jump(between),
            on_preview=lambda steps, latents: self._show(self._preview(steps, latents, deliver)),
        )
        self._arrived = time.perf_counter()
        if self._budgeted is not None and self._decodes:
            self._budgeted.before_decode()
        self._components.finish_stage("denoiser")
        return self._jumped.latents

    def chunks(self, between: Between | None = None) -> Iterator[Chunk]:
        """The chunks of a causal checkpoint's video, one after another; each is made when it is asked for. between:
        as of ``denoise``."""
        sampling, noise, context = self._prepare()
        given = 0 if context is None else context.shape[1]
        layout = make_layout(sampling.architecture, sampling.size, given)
        guide = partial(self._deadlines.guide, layout) if self._deadlines else lambda index: self._guide()
        on_step = self._after_jump(between)
        yield from run_chunks(self._components, sampling, layout, noise, context, guide, on_step=on_step)

    @property
    def components(self) -> Components:
        """The engines of the call."""
        return self._components

    @property
    def engine(self) -> str:
        """Its name."""
        return self._loaded.engine

    @property
    def request(self) -> Request:
        """What was asked for."""
        return self._request

    @property
    def jumped(self) -> Jumped | None:
        """All jumps, once they are made."""
        return self._jumped

    def keep(self, chunk: Chunk) -> None:
        """A chunk was made that is streamed."""
        self._kept.append(chunk)

    def decoded(self, frames: int, seconds: float) -> None:
        """Decoding ``frames`` of those that are streamed took ``seconds``."""
        self._decode += seconds
        if self._deadlines is not None:
            self._deadlines.decoded(frames, seconds)

    def took(self) -> None:
        """The reader of a stream has its next chunk."""
        if self._deadlines is not None:
            self._deadlines.took()

    def streamed(self, report: StreamReport) -> Result:
        """What comes back of a stream that came to its end."""
        if self._loaded.bundle.architecture.causal is not None:
            self._arrive(self._kept)
        return replace(self.result(None), stream=report)

    def _arrive(self, chunks: Sequence[Chunk]) -> np.ndarray:
        """All chunks are made: the latents of the whole."""
        self._arrived = time.perf_counter()
        made = [chunk.jumped for chunk in chunks if chunk.jumped is not None]
        self._jumped = Jumped(
            np.concatenate([chunk.latents for chunk in chunks], axis=1),
            tuple(jump for each in made for jump in each.jumps),
            tuple(seconds for each in made for seconds in each.seconds),
        )
        reports = [
            ChunkReport(
                frames=chunk.latents.shape[1],
                steps=0 if chunk.jumped is None else len(chunk.jumped.jumps),
                seconds=0.0 if chunk.jumped is None else sum(chunk.jumped.seconds),
                cache_seconds=chunk.cache_seconds,
            )
            for chunk in chunks
        ]
        told = self._deadlines.tell if self._deadlines else lambda index, report: report
        self._chunks = tuple(told(index, report) for index, report in enumerate(reports))
        self._components.finish_stage("denoiser")
        return self._jumped.latents

    def _prepare(self) -> tuple[Sampling, np.ndarray, np.ndarray | None]:
        """How jumps are made, the noise they start from, and the latents of the frames that are given."""
        request = self._request
        sampling, self._conditioning = make_sampling(self._loaded, request)
        context = None if request.context is None else encode(self._components, request.context[None])
        self._components.finish_stage("vae_encoder_next")
        size = sampling.size
        noise = initial_noise(request.seed, request.videos, size.channels, size.frames, size.height, size.width)
        for name in self._components.jumping:
            self._components.get(name)  # so that opening an engine is not counted as a jump
        # What comes before the first decision counts as text, so that both stages together are all of it.
        conditioner = self._conditioning.conditioner
        if not self._conditioning.known:
            self._observer.observe("text", time.perf_counter() - self._begun - conditioner)
        self._observer.observe("conditioner", conditioner)
        return sampling, noise, context

    def frames(self, latents: np.ndarray) -> Iterator[np.ndarray]:
        """Decoded chunks; the time between asking for one and getting it is the decoder's."""
        chunks = decode(self._components, latents)
        while True:
            asked = time.perf_counter()
            chunk = next(chunks, None)
            self._decode += time.perf_counter() - asked
            if chunk is None:
                break
            yield chunk
        # All of it since the last jump: closing the denoiser, opening the decoder, an encoder that is slower.
        self._observer.observe("decode", time.perf_counter() - self._arrived)

    def encoded(self, seconds: float) -> None:
        """What was left of encoding after the last frame took ``seconds``."""
        self._encode = seconds
        self._observer.observe("encode", seconds)

    def result(self, frames: np.ndarray | None, previews: tuple[Preview, ...] = ()) -> Result:
        """What comes back; to be called as soon as frames or file are there."""
        total = time.perf_counter() - self._started_at
        loaded, request, jumped, budgeted = self._loaded, self._request, self._jumped, self._budgeted
        assert jumped is not None
        return Result(
            frames=frames,
            latents=jumped.latents,
            plan=tuple((jump.t, jump.r) for jump in jumped.jumps),
            seconds=Seconds(
                load=self._components.seconds_waited - self._waited_before,
                text=self._conditioning.text,
                conditioner=self._conditioning.conditioner,
                jumps=jumped.seconds,
                decode=self._decode,
                encode=self._encode,
                total=total,
            ),
            seed=request.seed,
            size=(request.size.num_frames, request.size.height, request.size.width),
            fps=loaded.bundle.defaults.fps,
            engine=loaded.engine,
            precision=loaded.precision,
            budget=None if budgeted is None else budgeted.report(total),
            decisions=() if budgeted is None else budgeted.decisions,
            previews=previews,
            chunks=self._chunks,
            gpu=None if self._meter is None else self._meter.read(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loaded.latencies.end(self._setting, self._observer)
        if self._meter is not None:
            self._meter.close()

    def _begin(self, *, encode: bool) -> tuple[StageObserver, BudgetedRun | None]:
        loaded, budget = self._loaded, self._request.budget
        if budget is None:
            return loaded.latencies.begin(self._setting, decode=self._decodes, encode=encode), None
        start = time.perf_counter()
        from anyflow_rt.budget import BudgetedRun

        forecaster = loaded.latencies.begin_forecast(self._setting, decode=self._decodes, encode=encode)
        shift, tables = loaded.bundle.architecture.scheduler.shift, loaded.tables
        preparing = time.perf_counter() - start
        return forecaster, BudgetedRun(budget, forecaster, tables, shift, self._started_at, self._callbacks, preparing)

    def _guide(self) -> Guide:
        if self._budgeted is not None:
            return self._budgeted.guide()
        assert self._request.plan is not None
        return PlanGuide(self._request.plan, self._observer, self._request.preview_after)

    def _preview(self, steps: int, latents: np.ndarray, deliver: Deliver) -> Preview:
        start = time.perf_counter()
        frames, paths = deliver(steps, self._timed_draft(latents))
        self._observer.observe_preview("decode", self._draft_decoded - start)
        if paths:
            self._observer.observe_preview("encode", time.perf_counter() - self._draft_decoded)
        return Preview(steps, time.perf_counter() - self._started_at, frames, paths)

    def _after_jump(self, between: Between | None) -> OnStep | None:
        """The caller's ``on_step``, then ``between``."""
        on_step = self._on_step
        if between is None:
            return on_step

        def told(step: Step) -> None:
            if on_step is not None:
                on_step(step)
            between()

        return told

    def _timed(self, name: str, call: Callable[[T], object]) -> Callable[[T], None]:
        def timed(told: T) -> None:
            start = time.perf_counter()
            call(told)
            self._callbacks.observe(name, time.perf_counter() - start)

        return timed

    def _timed_draft(self, latents: np.ndarray) -> Iterator[np.ndarray]:
        yield from decode(self._components, latents)
        self._draft_decoded = time.perf_counter()


def _meter(engine: str) -> GpuMeter | None:
    """What reads the GPU's figures; on a CPU nobody is asked."""
    if not registry.for_gpu(engine):
        return None
    from anyflow_rt.engines.nvml import GpuMeter

    return GpuMeter()


def make_sampling(loaded: Loaded, request: Request) -> tuple[Sampling, ConditioningSeconds]:
    """How the jumps of a request are made, its prompts read: the negative ones first where the run is guided."""
    found, seconds = [], ConditioningSeconds(0.0, 0.0)
    for prompts in filter(None, (request.negative_prompts, request.prompts)):
        tokens = loaded.tokenizer(prompts, request.max_sequence_length)
        each, taken = condition(
            loaded.components, tokens, request.max_sequence_length, request.num_videos, loaded.prompts
        )
        found.append(each)
        seconds += taken
    loaded.components.finish_stage("conditioner")
    architecture = loaded.bundle.architecture
    size = geometry.latent_size(architecture, request.size)
    return Sampling(architecture, size, found, request.guidance_scale, request.mean_velocity), seconds
