"""Does a bundle do what the reference does? The same prompts, seeds and steps through diffusers and through us."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from anyflow_rt.engines.checkpoint_config import read_architecture
from anyflow_rt.engines.checkpoint_parts import whole_directory
from anyflow_rt.engines.chunks import make_layout
from anyflow_rt.engines.geometry import VideoSize, latent_size
from anyflow_rt.errors import MissingPackageError, ParityError
from anyflow_rt.runtime import Runtime

LATENT_BOUND = 1e-4
"""||a - b|| / ||b|| of the final latents, float32 against float32."""
FRAME_BOUND = 1
"""Largest difference of an 8-bit frame value, float32 against float32."""
PSNR_BOUND = 40.0
"""dB, a bf16 run against the reference in float32."""


@dataclass(frozen=True)
class Case:
    """One comparison."""

    prompts: tuple[str, ...]
    steps: int
    size: VideoSize
    seed: int = 0
    guidance_scale: float = 1.0
    negative_prompt: str | None = None
    mean_velocity: bool = True
    num_videos: int = 1
    max_sequence_length: int = 512
    context: np.ndarray | None = field(default=None, compare=False)
    """Frames that are given, uint8 (4n + 1, height, width, 3)."""


@dataclass(frozen=True)
class Parity:
    """How far two runs of one case lie apart."""

    precision: str
    latent_error: float
    frame_error: int
    psnr: float

    @property
    def holds(self) -> bool:
        """Within the bounds above: exact ones for fp32, PSNR for the others."""
        if self.precision == "fp32":
            return self.latent_error <= LATENT_BOUND and self.frame_error <= FRAME_BOUND
        return self.psnr >= PSNR_BOUND

    def __str__(self) -> str:
        return (
            f"{self.precision}: latents {self.latent_error:.1e} relative, frames at most {self.frame_error}/255 off, "
            f"{self.psnr:.1f} dB"
        )


class Reference:
    """The checkpoint in diffusers' own pipeline, float32 and eager, on the CPU. ``architecture``: as we read it."""

    def __init__(self, checkpoint: str | Path) -> None:
        try:
            import diffusers
            import torch
            import transformers
        except ImportError as error:
            raise MissingPackageError(error.name or "diffusers", "build", "comparing with the reference") from error
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
        self.architecture = read_architecture(Path(checkpoint))
        kind = diffusers.AnyFlowPipeline if self.architecture.causal is None else diffusers.AnyFlowFARPipeline
        with whole_directory(Path(checkpoint)) as whole:
            self.pipeline: Any = kind.from_pretrained(whole, dtype=torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)

    def run(self, case: Case) -> tuple[np.ndarray, np.ndarray]:
        """Final latents (N, F, C, h, w) float32 and frames (N, T, H, W, 3) uint8 of one case."""
        import torch

        size = latent_size(self.architecture, case.size)
        given: Any = None
        chunks: tuple[int, ...] = ()
        if case.context is not None:
            context = torch.from_numpy(case.context[None]).permute(0, 1, 4, 2, 3).float() / 255
            with torch.no_grad():
                given = self.pipeline.encode_video(context, height=case.size.height, width=case.size.width)
        if self.architecture.causal is not None:
            chunks = make_layout(self.architecture, size, 0 if given is None else given.shape[1]).partition
        latents = self.latents(case, chunks, given)
        frames = self._decode(torch.from_numpy(latents).permute(0, 2, 1, 3, 4))
        return latents, np.round(frames * 255).astype(np.uint8)

    def latents(self, case: Case, chunks: Sequence[int] = (), given: Any = None) -> np.ndarray:
        """Final latents (N, F, C, h, w) float32. chunks: of a causal checkpoint. given: a tensor of the latents
        (1, f, C, h, w) that the video begins with, in place of the case's context."""
        import torch

        options = {
            "prompt": list(case.prompts),
            "height": case.size.height,
            "width": case.size.width,
            "num_frames": case.size.num_frames,
            "num_inference_steps": case.steps,
            "num_videos_per_prompt": case.num_videos,
            "guidance_scale": case.guidance_scale,
            "use_mean_velocity": case.mean_velocity,
            "max_sequence_length": case.max_sequence_length,
            "video_latents": given,
        }
        if chunks:
            options["chunk_partition"] = list(chunks)
        if case.guidance_scale > 1:
            options["negative_prompt"] = [case.negative_prompt or ""] * len(case.prompts)
        generator = torch.Generator("cpu").manual_seed(case.seed)
        with uncompiled_flex_attention():
            latents = self.pipeline(**options, generator=generator, output_type="latent").frames
        return latents.permute(0, 2, 1, 3, 4).float().numpy()

    def _decode(self, latents: Any) -> np.ndarray:
        """As the pipeline does after its last step; sampling a second time would only cost time."""
        import torch

        vae = self.pipeline.vae
        mean, std = (
            torch.tensor(values).view(1, -1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        with torch.no_grad():
            video = vae.decode(latents / (1.0 / std) + mean, return_dict=False)[0]
        return self.pipeline.video_processor.postprocess_video(video, output_type="np")


@contextlib.contextmanager
def uncompiled_flex_attention() -> Iterator[None]:
    """The causal reference's attention has no kernel for a CPU, and tracing its plain form anew for every shape takes
    minutes: PyTorch's own switch for debugging runs that form as it is."""
    from torch.nn.attention import flex_attention

    before = flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG
    flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = True
    try:
        yield
    finally:
        flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = before


def compare(reference: Reference, runtime: Runtime, case: Case) -> Parity:
    """Run one case on both sides."""
    wanted_latents, wanted_frames = reference.run(case)
    result = runtime.generate(
        list(case.prompts),
        steps=case.steps,
        seed=case.seed,
        height=case.size.height,
        width=case.size.width,
        num_frames=case.size.num_frames,
        num_videos=case.num_videos,
        negative_prompt=case.negative_prompt,
        guidance_scale=case.guidance_scale,
        mean_velocity=case.mean_velocity,
        max_sequence_length=case.max_sequence_length,
        video=case.context,
    )
    assert result.frames is not None
    difference = result.frames.astype(np.int16) - wanted_frames.astype(np.int16)
    return Parity(
        precision=runtime.precision,
        latent_error=float(np.linalg.norm(result.latents - wanted_latents) / np.linalg.norm(wanted_latents)),
        frame_error=int(np.abs(difference).max()),
        psnr=peak_signal_to_noise(difference),
    )


def peak_signal_to_noise(difference: np.ndarray) -> float:
    """dB of an 8-bit difference; infinite where there is none."""
    error = float(np.mean(np.square(difference, dtype=np.float64)))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def check(checkpoint: str | Path, runtimes: Sequence[Runtime], size: VideoSize) -> list[Parity]:
    """What ``build`` asks at its end, two steps, every runtime: one prompt, which engines may be made for, and two of
    different length. Returns of each runtime the one further off.

    Raises ParityError naming the figure and its bound.
    """
    reference = Reference(checkpoint)
    pair = Case(prompts=("a red circle", "a small blue square moves slowly to the left"), steps=2, size=size)
    cases = (replace(pair, prompts=pair.prompts[:1]), pair)
    found = []
    for runtime in runtimes:
        parity = max((compare(reference, runtime, case) for case in cases), key=lambda parity: parity.latent_error)
        if not parity.holds:
            raise ParityError(
                f"{runtime.engine} does not reproduce diffusers: {parity}; the bounds are {LATENT_BOUND:.0e} and "
                f"{FRAME_BOUND}/255 for fp32, {PSNR_BOUND:.0f} dB below; use --precision fp32 or report this checkpoint"
            )
        found.append(parity)
    return found
