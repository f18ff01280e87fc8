"""Whole runs against diffusers on random checkpoints across the configuration space."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.bundles import random_bundle
from support.checkpoints import CONFIGURATIONS

from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.parity import FRAME_BOUND, LATENT_BOUND, Case, compare
from anyflow_rt.runtime import Runtime

SMALL, WIDE, TALL, ONE_FRAME = (
    VideoSize(9, 32, 32),
    VideoSize(5, 32, 64),
    VideoSize(13, 48, 32),
    VideoSize(1, 32, 48),
)
SHORT, MIDDLE, LONG = "a circle", "the small green star moves right", "red square, blue star & a circle over it" * 3
BASE = Case(prompts=(SHORT,), steps=4, size=SMALL, max_sequence_length=64)

CASES = {
    "one_step": replace(BASE, steps=1, size=WIDE),
    "two_steps_of_three": replace(BASE, prompts=(SHORT, LONG, MIDDLE), steps=2, size=TALL),
    "three_steps_guided": replace(BASE, steps=3, guidance_scale=3.0, negative_prompt=LONG, size=WIDE),
    "four_steps_one_frame": replace(BASE, steps=4, size=ONE_FRAME),
    "eight_steps": replace(BASE, prompts=(LONG,), steps=8, seed=7),
}
"""Every configuration is run through all of these."""

EXTREMES = {
    "whole_padding": replace(BASE, steps=2, max_sequence_length=512),
    "no_padding_left": replace(BASE, prompts=(LONG,), steps=2, max_sequence_length=8),
    "one_token": replace(BASE, steps=2, max_sequence_length=1),
    "plain_euler": replace(BASE, steps=4, mean_velocity=False),
    "guided_batch": replace(BASE, prompts=(SHORT, LONG, MIDDLE), steps=2, guidance_scale=3.0, negative_prompt=""),
    "several_videos": replace(BASE, prompts=(SHORT, LONG), steps=2, num_videos=2, size=ONE_FRAME),
}
"""Run on one configuration: they do not depend on the network's."""


def _assert_parity(configuration: str, case: Case, engine: str) -> None:
    made = random_bundle(configuration)
    bundle = Bundle.open(made.path)
    # A VAE of 16x spatial compression makes multiples of 32 pixels only: the same latents, twice the pixels.
    larger = max(1, bundle.architecture.vae.spatial_factor // 8)
    size = VideoSize(case.size.num_frames, larger * case.size.height, larger * case.size.width)
    # Engines made for this size, which single videos then go through, and engines made for any.
    alone = len(case.prompts) * case.num_videos == 1
    with Runtime(bundle, engine=engine, precision="fp32", specialize=size if alone else False) as runtime:
        parity = compare(made.reference, runtime, replace(case, size=size))
    assert parity.latent_error <= LATENT_BOUND, str(parity)
    assert parity.frame_error <= FRAME_BOUND, str(parity)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_runs_equal_diffusers(configuration: str, case: str) -> None:
    _assert_parity(configuration, CASES[case], "openvino")


@pytest.mark.parametrize("case", [*CASES, *EXTREMES])
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_every_option_equals_diffusers(engine: str, case: str) -> None:
    _assert_parity("base", {**CASES, **EXTREMES}[case], engine)
