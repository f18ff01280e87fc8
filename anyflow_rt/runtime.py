"""The public object: a bundle loaded, and videos made with it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from anyflow_rt.components import Components
from anyflow_rt.conditioning import Conditioning, ConditioningSeconds, condition
from anyflow_rt.decoding import decode
from anyflow_rt.engines import geometry, locations, registry
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.export import EXPORT_VERSION
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.engines.mend import rebuild_command
from anyflow_rt.errors import BundleError, UsageError
from anyflow_rt.noise import initial_noise
from anyflow_rt.prompt import PromptTokenizer
from anyflow_rt.request import OUTPUTS, Request, check_names, check_on_step, make_request
from anyflow_rt.result import Result, Seconds
from anyflow_rt.sampler import Sampler
from anyflow_rt.sampling.executor import OnStep, Sampling, run_plan
from anyflow_rt.working_memory import check_memory

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
        self._tokenizer = PromptTokenizer(bundle.tokenizer_path)
        self._components = Components(
            bundle,
            self.engine,
            self.precision,
            locations.compiled_cache(bundle.id),
            specialize=(bundle.defaults.size if specialize else None) if isinstance(specialize, bool) else specialize,
            single_use=single_use,
        )

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        steps: int | None = None,
        budget: float | None = None,
        confidence: float = 0.95,
        min_steps: int = 1,
        max_steps: int = 32,
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
    ) -> Result:
        """Make one video, or ``num_videos`` of each prompt.

        prompt: a text, or a list or tuple of them.
        steps: jumps, 1 to 1000; None (default) is 4, as far as min_steps and max_steps allow.
        budget: seconds; only None (default) so far. confidence: that a budget is met, between 0 and 1, default 0.95.
        min_steps, max_steps: jumps, 1 and 32 by default; steps must lie between those that are given.
        seed: of the initial noise, 0 by default: one integer for the whole batch, or a list with one a video.
        height, width: pixels, multiples of 16; num_frames: 4n + 1. None (default) is the bundle's own.
        num_videos: of each prompt, 1 by default.
        negative_prompt: what to avoid where guidance_scale is above 1: a text for all, a list with one a prompt, or
        None (default) for the empty text. guidance_scale: at least 0; 1 (default) and less are no guidance.
        mean_velocity: True by default; False is plain Euler, where the network is told r = t.
        max_sequence_length: prompt tokens that the denoiser attends to, 512 by default; longer prompts are cut.
        output: ``frames`` (default), or ``latents`` to leave out the decoder.
        on_step: called after every jump with a ``Step``, None by default; what it raises ends the run.

        Raises UsageError, naming the option, its value and the mend, before any work.
        """
        if output not in OUTPUTS:
            raise UsageError(f"output is {output!r}; give one of {', '.join(OUTPUTS)}")
        check_on_step(on_step)
        request = self._request(
            prompt,
            output,
            steps=steps,
            budget=budget,
            confidence=confidence,
            min_steps=min_steps,
            max_steps=max_steps,
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
        run = _Run(self, request)
        latents = run.denoise(on_step)
        frames = np.concatenate(list(run.frames(latents)), axis=1) if output == "frames" else None
        return run.result(latents, frames)

    def generate_to_file(
        self,
        path: str | Path,
        prompt: str | Sequence[str],
        *,
        fps: float | None = None,
        quality: float | None = None,
        on_step: OnStep | None = None,
        **options: Any,
    ) -> Result:
        """Like ``generate``, but frames go to ``path`` while the decoder still runs, and are not kept.

        path: ends in .mp4, .gif, .png (a contact sheet) or .npy (the frames themselves). ``options`` are those of
        ``generate``, without ``output``. fps: frames a second of an mp4 or gif; None (default) is the bundle's own.
        quality: of an mp4, 0 (small) to 100 (best); None (default) is 70.

        Raises UsageError as ``generate`` does, also for names that are no options, and OutputError where the file
        cannot be written, before any work; an existing file is replaced only once the new one is whole.
        """
        from anyflow_rt import video

        check_names(options, "generate_to_file")
        check_on_step(on_step)
        request = self._request(prompt, "file", **options)
        rate, size = self.bundle.defaults.fps if fps is None else fps, request.size
        video.check_output(path, request.videos)
        shape = video.VideoShape(request.videos, size.num_frames, size.height, size.width)
        with video.BackgroundWriter(video.open_writer(path, shape, fps=fps, usual_fps=rate, quality=quality)) as writer:
            run = _Run(self, request)
            latents = run.denoise(on_step)
            for chunk in run.frames(latents):
                for index, frames in enumerate(chunk):
                    writer.write(frames, index)
            start = time.perf_counter()
            paths = writer.close()
        return replace(run.result(latents, None, encode=time.perf_counter() - start), paths=paths, fps=rate)

    def sampler(self, prompt: str, **options: Any) -> Sampler:
        """The flow map of one prompt, jump by jump; ``options`` are those of ``generate`` that say how, not how far.

        Raises UsageError as ``generate`` does.
        """
        return _Run(self, self._request(prompt, "latents", **options)).sampler()

    def wait(self) -> None:
        """Wait until every engine is open. Raises what opening one raised."""
        self._components.wait()

    def close(self) -> None:
        """Release the engines."""
        self._components.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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


class _Run:
    """One call: the stages, and their times."""

    def __init__(self, runtime: Runtime, request: Request) -> None:
        self._start = time.perf_counter()
        self._runtime, self._request = runtime, request
        self._components = runtime._components
        self._waited_before = self._components.seconds_waited
        self._size = geometry.latent_size(runtime.bundle.architecture, request.size)
        self._conditioning = ConditioningSeconds(0.0, 0.0)
        self._jumps: tuple[float, ...] = ()
        self._decode = 0.0

    def denoise(self, on_step: OnStep | None) -> np.ndarray:
        """Prompt and noise -> final latents (N, F, C, h, w)."""
        request, size = self._request, self._size
        sampling = self._sampling()
        noise = initial_noise(request.seed, request.videos, size.channels, size.frames, size.height, size.width)
        latents, self._jumps = run_plan(self._components, sampling, request.plan, noise, on_step)
        self._components.finish_stage("denoiser")
        return latents

    def sampler(self) -> Sampler:
        return Sampler(self._components, self._sampling())

    def frames(self, latents: np.ndarray) -> Iterator[np.ndarray]:
        """Decoded chunks; the time between asking for one and getting it is the decoder's."""
        chunks = decode(self._components, latents)
        while True:
            start = time.perf_counter()
            chunk = next(chunks, None)
            self._decode += time.perf_counter() - start
            if chunk is None:
                return
            yield chunk

    def result(self, latents: np.ndarray, frames: np.ndarray | None, encode: float = 0.0) -> Result:
        runtime, request = self._runtime, self._request
        total = time.perf_counter() - self._start
        return Result(
            frames=frames,
            latents=latents,
            plan=tuple((jump.t, jump.r) for jump in request.plan),
            seconds=Seconds(
                load=self._components.seconds_waited - self._waited_before,
                text=self._conditioning.text,
                conditioner=self._conditioning.conditioner,
                jumps=self._jumps,
                decode=self._decode,
                encode=encode,
                total=total,
            ),
            seed=request.seed,
            size=(request.size.num_frames, request.size.height, request.size.width),
            fps=runtime.bundle.defaults.fps,
            engine=runtime.engine,
            precision=runtime.precision,
        )

    def _sampling(self) -> Sampling:
        return Sampling(
            architecture=self._runtime.bundle.architecture,
            size=self._size,
            conditionings=self._conditionings(),
            guidance_scale=self._request.guidance_scale,
            mean_velocity=self._request.mean_velocity,
        )

    def _conditionings(self) -> list[Conditioning]:
        """Of the negative prompts where the run is guided, then of the prompts."""
        request, found = self._request, []
        for prompts in filter(None, (request.negative_prompts, request.prompts)):
            tokens = self._runtime._tokenizer(prompts, request.max_sequence_length)
            conditioning, seconds = condition(self._components, tokens, request.max_sequence_length, request.num_videos)
            found.append(conditioning)
            self._conditioning += seconds
        self._components.finish_stage("conditioner")
        return found
