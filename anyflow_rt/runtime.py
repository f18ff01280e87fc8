"""The public object: a bundle loaded, and videos made with it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from anyflow_rt.admission import admit
from anyflow_rt.choice import USUAL_CALL, Call, choose
from anyflow_rt.components import Components
from anyflow_rt.engines import locations
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.errors import UsageError
from anyflow_rt.generation import Deliver, Generation, Loaded, make_sampling
from anyflow_rt.latencies import Latencies
from anyflow_rt.preview import (
    PREVIEW_AFTER,
    DraftFiles,
    OnPreview,
    Preview,
    check_preview,
    draft_path,
    whole_draft,
    write_chunks,
)
from anyflow_rt.prompt import PromptTokenizer
from anyflow_rt.prompt_cache import PromptCache
from anyflow_rt.request import OUTPUTS, Request, check_names, check_on_step
from anyflow_rt.residency import decide_residency
from anyflow_rt.result import Result
from anyflow_rt.sampler import Sampler
from anyflow_rt.sampling.executor import OnStep
from anyflow_rt.sampling.limits import check_fps, check_started_at
from anyflow_rt.turn import Turn

if TYPE_CHECKING:
    from anyflow_rt.deadlines import ChunkDeadlines, Pace
    from anyflow_rt.sampling.forecast import Forecaster
    from anyflow_rt.sampling.quality import Quality
    from anyflow_rt.streaming import Stream, StreamedChunk

logger = logging.getLogger(__name__)


class Runtime:
    """A bundle on one engine. Made by ``anyflow_rt.load``; use it as a context manager, or call ``close``.

    Where none is asked for, the engine is one that the bundle has for this machine's GPU, else the fastest that this
    machine has for a CPU: every bundle holds the ONNX graphs, and each machine compiles them for itself.

    One call at a time: the engines are shared between calls, so a second one, also while a stream is open, raises
    UsageError.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        engine: str | None = None,
        precision: str | None = None,
        specialize: bool | VideoSize = True,
        single_use: bool = False,
        one_call: bool = False,
        prompt_cache: str | Path | None = None,
        residency: str | None = None,
        meant_for: Call = USUAL_CALL,
    ) -> None:
        """Start opening the engines; each call waits for an engine where it first needs it.

        specialize: the size of single videos that engines are made for; True is the bundle's default size, False none.
        one_call: one is all there will be. single_use: so each engine is closed once it is done with, too.
        prompt_cache, residency: as of ``anyflow_rt.load``. meant_for: what calls will be like, where it is known: of
        several engines for a GPU, one is taken that is built for it, or for the size of ``specialize``.

        Raises UsageError for an engine, precision or residency of no known name, MissingPackageError for an engine that
        is not installed, BundleError for a bundle of another version or without the engine that is asked for,
        EngineError for a GPU's engine without a GPU, or whose memory is too little.
        """
        bundle.check_version()
        self.bundle = bundle
        call = Call(*astuple(specialize)) if isinstance(specialize, VideoSize) else meant_for
        chosen = choose(bundle, engine, precision, call=call)
        if chosen.note is not None:
            logger.warning("%s", chosen.note)
        self.engine, self.precision, self._record = chosen.engine, chosen.precision, chosen.record
        self.residency = decide_residency(bundle, chosen, residency, single_use=single_use, prompts=call.prompts)
        prompts = None
        if prompt_cache is not None:
            encoder, width = bundle.component_hash("text_encoder"), bundle.architecture.text_encoder.d_model
            prompts = PromptCache(prompt_cache, encoder, self.engine, self.precision, width)
        self._components = Components(
            bundle,
            self.engine,
            self.precision,
            locations.compiled_cache(bundle.id),
            specialize=(bundle.defaults.size if specialize else None) if isinstance(specialize, bool) else specialize,
            residency=self.residency,
            record=chosen.record,
            on_demand=() if prompts is None else ("text_encoder",),
            one_call=one_call or single_use,
            shared=call.in_time,
        )
        self.latencies = Latencies(bundle.id, self.engine)
        self._turn = Turn()
        self._chunk_forecasters: dict[tuple[int, int, int, bool], Forecaster] = {}
        tokenizer = PromptTokenizer(bundle.tokenizer_path)
        self._loaded = Loaded(
            bundle, self.engine, self.precision, tokenizer, self._components, self.latencies, prompts=prompts
        )

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        steps: int | None = None,
        budget: float | None = None,
        confidence: float = 0.95,
        strict_budget: bool = False,
        min_steps: int = 1,
        max_steps: int = 32,
        started_at: float | None = None,
        seed: int | Sequence[int] = 0,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_videos: int = 1,
        negative_prompt: str | Sequence[str] | None = None,
        guidance_scale: float = 1.0,
        mean_velocity: bool = True,
        max_sequence_length: int = 512,
        output: str = "frames",
        on_step: OnStep | None = None,
        preview: bool | OnPreview | None = None,
        preview_after: Sequence[int] = PREVIEW_AFTER,
        image: str | Path | np.ndarray | None = None,
        video: str | Path | np.ndarray | None = None,
        fit: str = "cover",
    ) -> Result:
        """Make one video, or ``num_videos`` of each prompt.

        prompt: a text, or a list or tuple of them.
        steps: jumps, 1 to 1000; None (default) is 4, as far as min_steps and max_steps allow. With a budget, the most.
        budget: seconds from the call to the frames; None (default) is as long as it takes. As many jumps are made as
        keep it with the probability ``confidence`` (default 0.95), decided anew before each; for bursts of other work
        see ``sampling.planner``. Where it is too small the fewest are; with strict_budget the run is refused instead.
        ``Result.budget`` and ``.decisions`` tell the rest.
        min_steps, max_steps: jumps, 1 and 32 by default; steps must lie between those that are given.
        started_at: the ``time.perf_counter()`` that a budget and ``seconds.total`` count from; None is the call.
        seed: of the initial noise, 0 by default: one integer for the whole batch, or a list with one a video.
        height, width: pixels, multiples of 16; num_frames: 4n + 1. None (default) is the bundle's own.
        num_videos: of each prompt, 1 by default.
        negative_prompt: what to avoid where guidance_scale is above 1: a text for all, a list with one a prompt, or
        None (default) for the empty text. guidance_scale: at least 0; 1 (default) and less are no guidance.
        mean_velocity: True by default; False is plain Euler, where the network is told r = t.
        max_sequence_length: prompt tokens that the denoiser attends to, 512 by default; longer prompts are cut.
        output: ``frames`` (default), or ``latents`` to leave out the decoder.
        on_step: called after every jump with a ``Step``, None by default; what it raises (``errors.Cancelled``, say)
        ends the run.
        preview: drafts on the way, none by default: after ``preview_after`` jumps (default 1, 4, 16) what jumping to
        the end from there shows. Each costs a jump and a decoding, and changes nothing of the result. True keeps them
        in ``Result.previews``; a function is called with each ``Preview`` at once.
        image: what the video begins with, none by default: the path of a picture, or uint8 RGB (H, W, 3). video: a
        clip that it continues, a path or (T, H, W, 3); resampled to the bundle's rate, and all of it but what is
        beyond 4n + 1 frames stays in the result. fit: how they come to the video's size: ``cover`` (default),
        ``contain`` or ``stretch``.

        Raises UsageError, naming the option, its value and the mend, and BudgetError, before any work.
        """
        start = check_started_at(started_at, time.perf_counter())
        if output not in OUTPUTS:
            raise UsageError(f"output is {output!r}; give one of {', '.join(OUTPUTS)}")
        check_on_step(on_step)
        check_preview(preview)
        if preview and output == "latents":
            raise UsageError("preview shows frames, and output is 'latents'; leave one of them out")
        request = self._request(
            prompt,
            output,
            steps=steps,
            budget=budget,
            confidence=confidence,
            strict_budget=strict_budget,
            min_steps=min_steps,
            max_steps=max_steps,
            preview_after=preview_after if preview else (),
            seed=seed,
            height=height,
            width=width,
            num_frames=num_frames,
            num_videos=num_videos,
            negative_prompt=negative_prompt,
            guidance_scale=guidance_scale,
            mean_velocity=mean_velocity,
            max_sequence_length=max_sequence_length,
            image=image,
            video=video,
            fit=fit,
        )
        kept: list[Preview] = []
        show: OnPreview = preview if callable(preview) else kept.append
        with (
            self._turn,
            Generation(self._loaded, request, output=output, started_at=start, on_step=on_step, show=show) as call,
        ):
            latents = call.denoise(whole_draft)
            frames = np.concatenate(list(call.frames(latents)), axis=1) if output == "frames" else None
            return call.result(frames, tuple(kept))

    def generate_to_file(
        self,
        path: str | Path,
        prompt: str | Sequence[str],
        *,
        fps: float | None = None,
        quality: float | None = None,
        started_at: float | None = None,
        on_step: OnStep | None = None,
        preview: bool | OnPreview | None = None,
        preview_after: Sequence[int] = PREVIEW_AFTER,
        **options: Any,
    ) -> Result:
        """Like ``generate``, but frames go to ``path`` while the decoder still runs, and are not kept.

        path: ends in .mp4, .gif, .png (a contact sheet) or .npy (the frames themselves). ``options`` are those of
        ``generate``, without ``output``. fps: frames a second of an mp4 or gif; None (default) is the bundle's own.
        quality: of an mp4, 0 (small) to 100 (best); None (default) is 70. A budget is for the finished file.
        preview: True writes drafts beside the file: ``out-preview-04.mp4`` after 4 jumps of ``out.mp4``. They stay,
        also where the run ends early.

        Raises UsageError and BudgetError as ``generate`` does, also for names that are no options, and OutputError
        where the file cannot be written, before any work; an existing file is replaced only once the new one is whole.
        """
        from anyflow_rt import video

        start = check_started_at(started_at, time.perf_counter())
        check_names(options, "generate_to_file")
        check_on_step(on_step)
        check_preview(preview)
        request = self._request(prompt, "file", preview_after=preview_after if preview else (), **options)
        rate, size = self.bundle.defaults.fps if fps is None else fps, request.size
        shape = video.VideoShape(request.videos, size.num_frames, size.height, size.width)

        def open_writer(place: str | Path) -> video.BackgroundWriter:
            return video.BackgroundWriter(video.open_writer(place, shape, fps=fps, usual_fps=rate, quality=quality))

        kept: list[Preview] = []
        show: OnPreview = preview if callable(preview) else kept.append
        deliver: Deliver = whole_draft if callable(preview) else DraftFiles(path, open_writer).write
        for place in (path, *(draft_path(path, steps) for steps in request.preview_after if not callable(preview))):
            video.check_apart(video.check_output(place, request.videos), (options.get("image"), options.get("video")))
        with (
            self._turn,
            Generation(self._loaded, request, output="file", started_at=start, on_step=on_step, show=show) as call,
            open_writer(path) as writer,
        ):
            write_chunks(writer, call.frames(call.denoise(deliver)))
            closing = time.perf_counter()
            paths = writer.close()
            call.encoded(time.perf_counter() - closing)
            return replace(call.result(None, tuple(kept)), paths=paths, fps=rate)

    def stream(
        self,
        prompt: str | Sequence[str],
        *,
        fps: float | None = None,
        fps_deadline: bool = False,
        budget_per_chunk: float | None = None,
        started_at: float | None = None,
        on_step: OnStep | None = None,
        **options: Any,
    ) -> Stream:
        """The frames of a video as they are made: iterate over ``StreamedChunk``s; ``result()`` tells of the whole.

        ``options`` are those of ``generate``, without output, budget and previews. A causal checkpoint gives chunk
        after chunk, each decoded while the next is denoised; of a bidirectional one frames come once all jumps are
        made. A reader that is slow slows it down, one that stops ends it. It begins with the first chunk asked for, and
        until it has ended or is closed every other call of this runtime is refused. fps: the rate that stalls are
        counted at; None (default) is the bundle's. fps_deadline: True gives every chunk the jumps that let it be there
        when it is to be played at that rate; False is the default. budget_per_chunk: seconds for each chunk instead,
        none by default; what one leaves of them the next may use. Both keep ``confidence``, ``min_steps`` and
        ``max_steps``; ``steps`` is then the most.

        Raises UsageError as ``generate`` does, before any work.
        """
        from anyflow_rt.streaming import Stream

        start = check_started_at(started_at, time.perf_counter())
        check_names(options, "stream")
        check_on_step(on_step)
        if options.get("budget") is not None:
            raise UsageError(f"budget {options['budget']!r} is for a whole video, and a stream has none; give steps")
        rate = self.bundle.defaults.fps if fps is None else check_fps(fps)
        if not isinstance(fps_deadline, bool):
            raise UsageError(f"fps_deadline is {fps_deadline!r}; give True, and the rate as fps, or False")
        request = self._request(prompt, "file", **options)
        causal, deadlines = self.bundle.architecture.causal is not None, None
        if fps_deadline or budget_per_chunk is not None:
            from anyflow_rt.deadlines import make_pace

            pace = make_pace(rate if fps_deadline else None, budget_per_chunk, causal=causal, **options)
            deadlines = self._chunk_deadlines(request, pace, start)

        def begin() -> Generation:
            return Generation(
                self._loaded, request, output="frames", started_at=start, on_step=on_step, deadlines=deadlines
            )

        return Stream(begin, request, self._turn, start, causal=causal, fps=rate)

    def stream_to_file(
        self,
        target: str | Path,
        prompt: str,
        *,
        fps: float | None = None,
        quality: float | None = None,
        started_at: float | None = None,
        on_step: OnStep | None = None,
        on_chunk: Callable[[StreamedChunk], object] | None = None,
        **options: Any,
    ) -> Result:
        """Like ``stream``, each chunk written to ``target`` at once as a fragmented mp4: a path, or ``-`` for standard
        output. What was written stays, and plays, also where the run ends early.

        on_chunk: told of each chunk before it is written, None by default. fps and quality are ``generate_to_file``'s.
        Raises UsageError and OutputError as that does, also where more than one video is asked for.
        """
        from anyflow_rt import video
        from anyflow_rt.output.fragmented import check_stream_target

        check_stream_target(target)
        video.check_apart((target,), (options.get("image"), options.get("video")))
        rate = self.bundle.defaults.fps if fps is None else fps
        with self.stream(prompt, fps=rate, started_at=started_at, on_step=on_step, **options) as chunks:
            size, videos = chunks.size, chunks.videos
            if videos != 1:
                raise UsageError(f"{videos} videos cannot be streamed into one file; ask for one")
            shape = video.VideoShape(1, size.num_frames, size.height, size.width)
            opened = video.open_stream(target, shape, fps=fps, usual_fps=rate, quality=quality)
            with video.BackgroundWriter(opened) as writer:
                for chunk in chunks:
                    if on_chunk is not None:
                        on_chunk(chunk)
                    writer.write(chunk.frames[0])
                paths = writer.close()
            return replace(chunks.result(), paths=paths, fps=rate)

    def _chunk_deadlines(self, request: Request, pace: Pace, start: float) -> ChunkDeadlines:
        """What is learnt of the chunks of one size serves all streams of it."""
        from anyflow_rt.deadlines import ChunkDeadlines, make_forecaster

        size = request.size
        key = (size.height, size.width, request.videos, request.negative_prompts is not None)
        forecaster = self._chunk_forecasters.setdefault(key, make_forecaster())
        assert request.plan is not None
        shift = self.bundle.architecture.scheduler.shift
        return ChunkDeadlines(pace, self._loaded.tables, forecaster, shift, request.plan, start)

    def sampler(self, prompt: str, **options: Any) -> Sampler:
        """The flow map of one prompt, jump by jump; ``options`` are those of ``generate`` that say how, not how far.

        Raises UsageError as ``generate`` does.
        """
        if self.bundle.architecture.causal is not None:
            raise UsageError("a causal checkpoint has no jumps of a whole video; use generate")
        request = self._request(prompt, "latents", **options)
        with self._turn:
            sampling, _ = make_sampling(self._loaded, request)
        return Sampler(self._components, sampling)

    def plan_by(self, quality: Quality | None) -> None:
        """Plan budgets by another quality than what was measured of the bundle; None is the bundle's again."""
        self._loaded = replace(self._loaded, quality=quality)

    def wait(self) -> None:
        """Wait until every engine is open. Raises what opening one raised."""
        self._components.wait()
        self.latencies.opening = False

    def close(self) -> None:
        """Release the engines, and keep what runs took in this machine's latency profile; once."""
        if not self._components.closed:
            self._components.close()
        self.latencies.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            # Who waits for an error, or for the end after Ctrl-C, is to wait neither for engines that are being opened
            # nor for the profile, and not to read of it.
            self.latencies.abandon()
            self._components.close(wait=False)
        self.close()

    def _request(self, prompt: str | Sequence[str], output: str, **options: Any) -> Request:
        """The checked request. output: ``frames``, ``latents`` or ``file``."""
        self._components.check_open()
        return admit(
            self.bundle,
            prompt,
            engine=self.engine,
            precision=self.precision,
            output=output,
            record=self._record,
            tokenizer=self._loaded.tokenizer,
            **options,
        )
