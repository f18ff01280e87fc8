"""Clips that go on: held-out scenes, of which one frame or nine are given, judged by what the rest shows.

Longer ones go on from nine frames. A moving shape leaves the picture sooner or later, where nothing can be judged, so
those clips are judged up to the last frame in which the scene's own shape is all there; one at rest to the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from anyflow_rt.benchmarks.causal.common import STEPS, held_out_scenes, load
from anyflow_rt.benchmarks.measure import Conditions, Sample
from anyflow_rt.benchmarks.report import Outcome, Target
from anyflow_rt.benchmarks.shapes.continuation import judge_continuation
from anyflow_rt.benchmarks.shapes.judge import ATTRIBUTE_NAMES, judge
from anyflow_rt.benchmarks.shapes.world import Attributes
from anyflow_rt.benchmarks.statistics.wilson import wilson
from anyflow_rt.engines.checkpoint_parts import located
from anyflow_rt.parity import peak_signal_to_noise
from anyflow_rt.runtime import Runtime
from anyflow_rt.shipped import CAUSAL_CHECKPOINT

SCENES = 128
GIVEN = {"text to video": 0, "image to video": 1, "video to video": 9}
"""Frames; without any there is nothing to go on from, and the whole clip is judged."""
LONG = (33, 57)
"""Frames of longer clips: nine given, twice and more than three times as many as the checkpoint was trained with."""
LONG_SCENES = 64
STEP_COUNTS = (2, STEPS, 8)
RIGHT = 0.85
"""Target: clips that keep every attribute, at ``STEPS``."""
FIRST_FRAME = 30.0
"""Target: dB of the first frame against the VAE's own reconstruction of the image."""


def run(conditions: Conditions) -> Outcome:
    """Nothing is timed, so the machine need not be quiet."""
    scenes = held_out_scenes(SCENES)
    samples, targets, notes = [], [], []
    with load() as runtime:
        for name, given in GIVEN.items():
            for steps in STEP_COUNTS:
                right = [_kept(runtime, number, steps, given, *scene) for number, scene in enumerate(scenes)]
                whole = [float(all(each.values())) for each in right]
                samples.append(Sample(f"{name}, {steps} steps: every attribute kept", tuple(whole), ""))
                notes.append(f"{name}, {steps} steps: {_told(right)}")
                conditions.say(notes[-1])
                if given and steps == STEPS:
                    targets.append(Target(f"{name}, {steps} steps, kept", float(np.mean(whole)), RIGHT, True, "of 1"))
        for frames in LONG:
            sample, note = _long(runtime, frames)
            samples.append(sample)
            notes.append(note)
            conditions.say(note)
        fidelity = Sample(
            "image to video, first frame against diffusers' reconstruction of the image",
            tuple(_first_frames(runtime, scenes[:16])),
            "dB",
        )
    targets.append(Target("the worst of those first frames", min(fidelity.values), FIRST_FRAME, True, "dB"))
    return Outcome(f"causal clips: {SCENES} held-out scenes", (*samples, fidelity), (), tuple(targets), tuple(notes))


def _long(runtime: Runtime, frames: int) -> tuple[Sample, str]:
    """Clips of ``frames``, nine of them given."""
    right, seen = [], []
    given = GIVEN["video to video"]
    for number, (prompt, attributes, shown) in enumerate(held_out_scenes(LONG_SCENES, num_frames=frames)):
        made = runtime.generate(prompt, steps=STEPS, seed=number, num_frames=frames, video=shown[:given]).frames
        assert made is not None
        right.append(judge_continuation(shown[:given], made[0, given : len(shown)]).right(attributes))
        seen.append(len(shown) - given)
    name = f"{frames} frames from nine, {STEPS} steps"
    whole = tuple(float(all(each.values())) for each in right)
    told = (
        f"{name}: {_told(right)}; of {frames - given} made frames {np.mean(seen):.1f} are judged, at least {min(seen)}"
    )
    return Sample(f"{name}: every attribute kept", whole, ""), told


def _kept(
    runtime: Runtime, number: int, steps: int, given: int, prompt: str, attributes: Attributes, frames: np.ndarray
) -> dict[str, bool]:
    begin: dict[str, Any] = {1: {"image": frames[0]}, 9: {"video": frames[:9]}}.get(given, {})
    made = runtime.generate(prompt, steps=steps, seed=number, **begin).frames
    assert made is not None
    if not given:
        return judge(made[0]).right(attributes)
    return judge_continuation(frames[:given], made[0, given:]).right(attributes)


def _told(right: Sequence[dict[str, bool]]) -> str:
    """Counts and Wilson's interval, attribute by attribute."""
    counts = Counter(name for each in right for name, kept in each.items() if kept)
    every = sum(all(each.values()) for each in right)
    low, high = wilson(every, len(right))
    single = ", ".join(f"{name} {counts[name] / len(right):.1%}" for name in ATTRIBUTE_NAMES)
    return f"{every} of {len(right)} keep all ({every / len(right):.1%}, interval {low:.1%} to {high:.1%}); {single}"


def _first_frames(runtime: Runtime, scenes: Sequence[tuple[str, Attributes, np.ndarray]]) -> list[float]:
    """dB of each clip's first frame, made as a user gets it, against diffusers' VAE in float32."""
    import torch
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan.from_pretrained(located(CAUSAL_CHECKPOINT, "vae"), torch_dtype=torch.float32)
    found = []
    for prompt, _, frames in scenes:
        image = torch.from_numpy(frames[0]).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1
        with torch.no_grad():
            seen = vae.decode(vae.encode(image).latent_dist.mode()).sample[0, :, 0].permute(1, 2, 0)
        wanted = ((seen / 2 + 0.5).clamp(0, 1) * 255).round().numpy()
        made = runtime.generate(prompt, steps=1, image=frames[0]).frames
        assert made is not None
        found.append(peak_signal_to_noise(made[0, 0].astype(np.float64) - wanted))
    return found
