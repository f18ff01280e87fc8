"""The public object: a bundle loaded, and videos made with it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from anyflow_rt.components import Components
from anyflow_rt.engines import geometry, locations, registry
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.export import EXPORT_VERSION
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.engines.mend import rebuild_command
from anyflow_rt.errors import BundleError, UsageError
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
from anyflow_rt.request import OUTPUTS, Request, check_names, check_on_step, make_request
from anyflow_rt.result import Result
from anyflow_rt.sampler import Sampler
from anyflow_rt.sampling.executor import OnStep
from anyflow_rt.sampling.limits import check_started_at
from anyflow_rt.working_memory import check_memory

if TYPE_CHECKING:
    from anyflow_rt.sampling.quality import Quality

logger = logging.getLogger(__name__)


class Runtime:
    """A bundle on one engine. Made by ``anyflow_rt.load``; use it as a context manager, or call ``close``.

    Where none is asked for, the engine is the fastest that this machine has for a CPU, whatever the bundle was built
    for: every bundle holds the ONNX graphs, and each machine compiles them for itself.

    One call at a time: the engines are shared between calls.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        engine: str | None = None,
        precision: str | None = None,
        specialize: bool | VideoSize = True,
        single_use: bool = False,
    ) -> None:
        """Start opening the engines; each call waits for an engine where it first needs it.

        specialize: the size of single videos that engines are made for; True is the bundle's default size, False none.
        single_use: one call is all there will be, so each engine is closed once it is done with.

        Raises UsageError for an engine or precision of no known name, MissingPackageError for an engine that is not
        installed, BundleError for a bundle of another version.
        """
        if bundle.manifest.export_version != EXPORT_VERSION:
            raise BundleError(
                f"the bundle {bundle.path} was exported by version {bundle.manifest.export_version}, and this "
                f"anyflow-rt runs version {EXPORT_VERSION}; build it again with  "
                f"{rebuild_command(bundle.path, force=True)}"
            )
        self.bundle = bundle
        self.engine = registry.default_engine() if engine is None else engine
        registry.check_engine_name(self.engine)
        usual, note = registry.default_precision(self.engine)
        if precision is None and note is not None:
            logger.warning("%s", note)
        self.precision = usual if precision is None else precision
        registry.check_precision(self.engine, self.precision)
        self._components = Components(
            bundle,
            self.engine,
            self.precision,
            locations.compiled_cache(bundle.id),
            specialize=(bundle.defaults.size if specialize else None) if isinstance(specialize, bool) else specialize,
            single_use=single_use,
        )
        self.latencies = Latencies(bundle.id, self.engine)
        tokenizer = PromptTokenizer(bundle.tokenizer_path)
        self._loaded = Loaded(bundle, self.engine, self.precision, tokenizer, self._components, self.latencies)

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
    ) -> Result:
        """Make one video, or ``num_videos`` of each prompt.

        prompt: a text, or a list or tuple of them.
        steps: jumps, 1 to 1000; None (default) is 4, as far as min_steps and max_steps allow. With a budget, the most.
        budget: seconds from the call to the frames; None (default) is as long as it takes. As many jumps are made as
        keep it with the probability ``confidence`` (default 0.95), decided anew before each. Where it is too small the
        fewest are; with strict_budget the run is refused instead. ``Result.budget`` and ``.decisions`` tell the rest.
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
        )
        kept: list[Preview] = []
        show: OnPreview = preview if callable(preview) else kept.append
        with Generation(self._loaded, request, output=output, started_at=start, on_step=on_step, show=show) as call:
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
            video.check_output(place, request.videos)
        with (
            Generation(self._loaded, request, output="file", started_at=start, on_step=on_step, show=show) as call,
            open_writer(path) as writer,
        ):
            write_chunks(writer, call.frames(call.denoise(deliver)))
            closing = time.perf_counter()
            paths = writer.close()
            call.encoded(time.perf_counter() - closing)
            return replace(call.result(None, tuple(kept)), paths=paths, fps=rate)

    def sampler(self, prompt: str, **options: Any) -> Sampler:
        """The flow map of one prompt, jump by jump; ``options`` are those of ``generate`` that say how, not how far.

        Raises UsageError as ``generate`` does.
        """
        sampling, _ = make_sampling(self._loaded, self._request(prompt, "latents", **options))
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
        """The checked request, the size included. output: ``frames``, ``latents`` or ``file``."""
        self._components.check_open()
        architecture = self.bundle.architecture
        request = make_request(
            prompt, default_size=self.bundle.defaults.size, shift=architecture.scheduler.shift, **options
        )
        geometry.latent_size(architecture, request.size)
        check_memory(
            architecture,
            request.size,
            request.videos,
            engine=self.engine,
            precision=self.precision,
            output=output,
        )
        return request
