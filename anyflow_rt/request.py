"""What a caller may ask of ``Runtime.generate``: every check that needs no engine, made before any work."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.errors import UsageError
from anyflow_rt.input.source import Source, make_source
from anyflow_rt.noise import check_seed, check_seeds
from anyflow_rt.preview import check_preview_after
from anyflow_rt.prompt import check_sequence_length, clean_prompts
from anyflow_rt.sampling.latency import Setting
from anyflow_rt.sampling.limits import Budget, Limits, check_budget, check_confidence
from anyflow_rt.sampling.schedule import Plan, check_steps, uniform_plan

DEFAULT_STEPS = 4
DEFAULT_MAX_STEPS = 32
OUTPUTS = ("frames", "latents")
NOT_OPTIONS = ("prompt", "default_size", "shift")
"""Parameters of ``make_request`` that are not a caller's options."""
MAX_VIDEOS = 4096
"""Of one call. Far more than memory holds; it keeps a mistyped count from filling the memory with file names."""


@dataclass(frozen=True)
class Pace:
    """How far a run goes: either within a budget or, where that is None, in so many ``steps``."""

    budget: Budget | None
    steps: int | None
    preview_after: tuple[int, ...]


@dataclass(frozen=True)
class Request:
    """One call, checked. Prompts are cleaned; ``negative_prompts`` is None where nothing is guided.

    Either ``plan`` or ``budget`` is None. preview_after: jumps after which a draft is shown, ascending.
    """

    prompts: tuple[str, ...]
    negative_prompts: tuple[str, ...] | None
    plan: Plan | None
    budget: Budget | None
    preview_after: tuple[int, ...]
    seed: int | tuple[int, ...]
    size: VideoSize
    num_videos: int
    guidance_scale: float
    mean_velocity: bool
    max_sequence_length: int
    source: Source | None = field(default=None, compare=False)
    """Of the frames that are given."""
    context: np.ndarray | None = field(default=None, compare=False)
    """Those frames, once they are read: uint8 (4n + 1, H, W, 3) of the video's height and width."""

    @property
    def videos(self) -> int:
        """Videos made by the call, prompt-major."""
        return len(self.prompts) * self.num_videos

    def setting(self, engine: str, precision: str) -> Setting:
        """What its times depend on."""
        size, guided = self.size, self.negative_prompts is not None
        return Setting(engine, precision, size.num_frames, size.height, size.width, self.videos, guided)


def make_request(
    prompt: str | Sequence[str],
    *,
    default_size: VideoSize,
    shift: float,
    steps: int | None = None,
    budget: float | None = None,
    confidence: float = 0.95,
    strict_budget: bool = False,
    min_steps: int = 1,
    max_steps: int = DEFAULT_MAX_STEPS,
    preview_after: Sequence[int] = (),
    seed: int | Sequence[int] = 0,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
    num_videos: int = 1,
    negative_prompt: str | Sequence[str] | None = None,
    guidance_scale: float = 1.0,
    mean_velocity: bool = True,
    max_sequence_length: int = 512,
    image: Any = None,
    video: Any = None,
    fit: str = "cover",
) -> Request:
    """Check one call's options. Raises UsageError naming the option, its value and the mend.

    Like the reference, guidance is on only above 1, and one negative prompt (default: the empty text) serves all.
    With a budget, ``steps`` and ``max_steps`` are both ceilings.
    """
    pace = check_pace(
        steps=steps,
        budget=budget,
        confidence=confidence,
        strict_budget=strict_budget,
        min_steps=min_steps,
        max_steps=max_steps,
        preview_after=preview_after,
    )
    if not isinstance(mean_velocity, bool):
        raise UsageError(f"mean_velocity is {mean_velocity!r}; give True, or False for plain Euler steps")
    prompts = tuple(clean_prompts(prompt))
    videos = len(prompts) * _count("num_videos", num_videos)
    if videos > MAX_VIDEOS:
        raise UsageError(f"num_videos {num_videos} makes {videos} videos in one call; at most {MAX_VIDEOS} fit")
    return Request(
        prompts=prompts,
        negative_prompts=_negatives(negative_prompt, len(prompts)) if _guidance(guidance_scale) > 1 else None,
        plan=None if pace.steps is None else uniform_plan(pace.steps, shift),
        budget=pace.budget,
        preview_after=pace.preview_after,
        seed=tuple(check_seeds(seed, videos)) if isinstance(seed, list | tuple) else check_seed(seed),
        size=VideoSize(
            num_frames=default_size.num_frames if num_frames is None else num_frames,
            height=default_size.height if height is None else height,
            width=default_size.width if width is None else width,
        ),
        num_videos=num_videos,
        guidance_scale=float(guidance_scale),
        mean_velocity=mean_velocity,
        max_sequence_length=check_sequence_length(max_sequence_length),
        source=make_source(image, video, fit),
    )


def check_pace(
    *,
    steps: int | None = None,
    budget: float | None = None,
    confidence: float = 0.95,
    strict_budget: bool = False,
    min_steps: int = 1,
    max_steps: int = DEFAULT_MAX_STEPS,
    preview_after: Sequence[int] = (),
) -> Pace:
    """The options that say how far a run goes; they need no bundle. Raises UsageError as ``make_request`` does."""
    least, most = check_steps(min_steps, "min_steps"), check_steps(max_steps, "max_steps")
    if least > most == DEFAULT_MAX_STEPS and budget is not None:
        raise UsageError(f"min_steps is {least}; runs with a budget take at most {DEFAULT_MAX_STEPS} steps")
    if least > most:
        raise UsageError(f"min_steps {least} is above max_steps {most}; give a smaller one, or a larger max_steps")
    limits = Limits(preview_after=check_preview_after(preview_after))
    sure = check_confidence(confidence)
    if not isinstance(strict_budget, bool):
        raise UsageError(f"strict_budget is {strict_budget!r}; give True, to refuse what cannot be met, or False")
    if budget is None:
        if strict_budget:
            raise UsageError(
                "strict_budget is about a budget, and none is given; give budget, or leave strict_budget out"
            )
        return Pace(None, _steps(steps, least, most), limits.preview_after)
    seconds = check_budget(budget)
    return Pace(Budget(seconds, sure, strict_budget, _within(limits, steps, least, most)), None, limits.preview_after)


def option_names() -> list[str]:
    """Of ``make_request``, as far as they are a caller's."""
    return [name for name in inspect.signature(make_request).parameters if name not in NOT_OPTIONS]


def check_names(names: Iterable[str], caller: str) -> None:
    """Raise UsageError for the names that are no options of ``make_request``."""
    options = option_names()
    unknown = [name for name in names if name not in options]
    if unknown:
        raise UsageError(f"{caller} has no option {', '.join(unknown)}; its options are {', '.join(options)}")


def check_on_step(on_step: object) -> None:
    """Raise UsageError unless it can be called, or is None."""
    if on_step is not None and not callable(on_step):
        raise UsageError(f"on_step is {on_step!r}; give a function that takes a Step, or leave it out")


def _negatives(negative: str | Sequence[str] | None, prompts: int) -> tuple[str, ...]:
    items = clean_prompts("" if negative is None else negative, name="negative_prompt", allow_empty=True)
    if isinstance(negative, str | None):
        items = items * prompts
    if len(items) != prompts:
        raise UsageError(f"{len(items)} negative prompts for {prompts} prompts; give one, or one for each prompt")
    return tuple(items)


def _guidance(scale: float) -> float:
    if not _is_number(scale) or not math.isfinite(scale) or scale < 0:
        raise UsageError(f"guidance_scale is {scale!r}; give a number of at least 0 (1 means no guidance)")
    return scale


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _steps(asked: int | None, least: int, most: int) -> int:
    """The step count: as asked, else the default, within the bounds.

    A ``max_steps`` left at its default does not bound what is asked: it is where planning ends, not a limit of ours.
    """
    if asked is None:
        return min(max(DEFAULT_STEPS, least), most)
    steps = check_steps(asked)
    if steps < least or (steps > most and most != DEFAULT_MAX_STEPS):
        raise UsageError(
            f"steps {steps} is not within min_steps {least} and max_steps {most}; leave the bounds out, or widen them"
        )
    return steps


def _within(limits: Limits, steps: int | None, least: int, most: int) -> Limits:
    """The limits of a plan within a budget: ``steps`` is its ceiling."""
    if steps is not None and check_steps(steps) < least:
        raise UsageError(f"steps {steps} is below min_steps {least}; with a budget, steps is the most that are run")
    return replace(limits, min_steps=least, max_steps=most if steps is None else min(steps, most))


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} is {value!r}; give a whole number of at least 1")
    return value
