"""Results of a bench run that never was: numbers from a seeded generator, with known effects in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from anyflow_rt.benchmarks.results.values import (
    Ceiling,
    Features,
    JumpError,
    LatencySamples,
    Machine,
    Memory,
    Metric,
    Parity,
    PeerSamples,
    Rate,
    Results,
    Score,
    SetScore,
    Settings,
)

STEPS = (1, 2, 4, 8, 16, 32)
PROMPTS = tuple(
    f"a {size} {colour} {shape} moving left on a grey background"
    for size in ("large", "small")
    for colour in ("red", "green", "blue", "yellow")
    for shape in ("circle", "square", "triangle")
)
METRICS = (
    Metric("shapes.right", description="1 where the video shows every attribute of its caption, else 0"),
    Metric("shapes.position_error", "px", False, description="distance from the nearest path the caption allows"),
    Metric("fidelity.psnr", "dB", fidelity=True, description="PSNR to the reference of the same seed"),
    Metric("motion.magnitude", "px/frame", None, primary=False, description="speed of the fastest 5% of pixels"),
    Metric("shapes.distance", "", False, primary=False, description="energy distance to true clips"),
)
FIXED, PER_STEP = 0.030, 0.012
"""Seconds of a run without its steps, and of one step."""


def make_results(
    *, quality: float = 0.0, slower: float = 1.0, seed: int = 0, prompts: int = 12, runs: int = 15, **changed: object
) -> Results:
    """Quality of every step count moved by ``quality``, times multiplied by ``slower``; other fields by name."""
    generator = np.random.default_rng(seed)
    made = Results(
        machine=Machine("AMD EPYC 9555 64-Core Processor", 2, ("avx512f", "avx512_bf16"), 25_200_000_000, "Linux 6.1"),
        versions={"python": "3.11.7", "anyflow-rt": "0.1.0", "openvino": "2026.4.1"},
        commit="0123456789abcdef0123456789abcdef01234567",
        bundle_id="b" * 64,
        created="2026-11-22T20:00:00+00:00",
        latency=_latency(generator, slower, runs),
        quality=_quality(quality, prompts),
        settings=Settings(
            (17, 64, 64),
            8.0,
            1,
            "openvino",
            "bf16",
            warm_up="two runs of every step count",
            timed="from the call to the frames, each stage by its own clock",
            cached="modulation of every (t, r); nothing of a prompt",
        ),
        metrics=METRICS,
        set_scores=tuple(SetScore("shapes.distance", steps, 0.8 / steps, 64) for steps in STEPS),
        features=(Features("shapes", PROMPTS[0], 0, 4, (0.5, 1.5)),),
        ceiling=Ceiling("bf16", (Rate("openvino bf16 matmul 2048x2048x2048", (420.0, 424.0, 421.0)),), 2.4),
        memory=Memory(226_500_000),
        peers=_peers(generator, slower),
        parity=Parity(True, ("fp32: latents 1.4e-07 relative, frames at most 1/255 off", "bf16: 50.2 dB")),
        jump_errors=(JumpError(32, 0, (0.5, 0.6)), JumpError(32, 16, (0.2, 0.1)), JumpError(16, 0, (0.3, 0.2))),
        notes=("torch.compile was not measured: there is no C++ compiler here",),
    )
    return replace(made, **changed)  # type: ignore[arg-type]


def _latency(generator: np.random.Generator, slower: float, runs: int) -> tuple[LatencySamples, ...]:
    found = []
    for steps in STEPS:
        parts = {
            "text": np.full((runs, 1), 0.004),
            "conditioner": np.full((runs, 1), 0.001),
            "jump": np.full((runs, steps), PER_STEP),
            "decode": np.full((runs, 1), 0.025),
        }
        noisy = {stage: slower * values * generator.lognormal(0, 0.05, values.shape) for stage, values in parts.items()}
        total = sum(values.sum(axis=1) for values in noisy.values())
        found += [LatencySamples(steps, stage, tuple(values.ravel().tolist())) for stage, values in noisy.items()]
        found.append(LatencySamples(steps, "total", tuple(np.asarray(total).tolist())))
    return tuple(found)


def _quality(moved: float, prompts: int) -> tuple[Score, ...]:
    """The same draws whatever ``moved`` is, as the same prompts and seeds give. 16 steps dip below 8."""
    generator = np.random.default_rng(7)
    shares = {1: 0.35, 2: 0.6, 4: 0.82, 8: 0.9, 16: 0.86, 32: 0.92}
    found = []
    for series, lower in (("shipped", 0.0), ("forward-only", 0.1), ("teacher", 0.25)):
        for prompt in PROMPTS[:prompts]:
            ease = generator.normal(0, 0.05)
            for seed in range(4):
                luck = generator.random()
                for steps in STEPS:
                    share = shares[steps] + moved - lower * 2 / (1 + steps**0.5) + ease
                    found.append(Score("shapes.right", prompt, seed, steps, float(luck < share), series))
                    if series == "shipped":
                        noise = generator.normal(0, 0.3)
                        found.append(Score("shapes.position_error", prompt, seed, steps, 2.5 - 2 * share + noise))
                        found.append(Score("fidelity.psnr", prompt, seed, steps, 20 + 3 * np.log2(steps) + noise))
                        found.append(Score("motion.magnitude", prompt, seed, steps, 2 + noise))
    return tuple(found)


def _peers(generator: np.random.Generator, slower: float) -> tuple[PeerSamples, ...]:
    found = []
    for peer, ratio in (("diffusers fp32 eager", 4.0), ("diffusers bf16 eager", 2.7)):
        for steps in STEPS:
            weather = generator.lognormal(0, 0.1, 7)
            ours = slower * (FIXED + PER_STEP * steps) * weather
            theirs = ratio * (FIXED + PER_STEP * steps) * weather * generator.lognormal(0, 0.03, 7)
            found.append(PeerSamples(peer, steps, tuple(ours.tolist()), tuple(theirs.tolist())))
    return tuple(found)
