"""TensorRT on the GPU of this machine: what only a GPU can show. ``pytest -m gpu tests/gpu``; elsewhere skipped."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import numpy as np
import pytest

from anyflow_rt.build import build
from anyflow_rt.build_plan import BuildOptions
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.gpu import present_target
from anyflow_rt.engines.tensorrt.package import PACKAGE_TARGETS, PACKAGES
from anyflow_rt.loading import SHAPES_CHECKPOINT
from anyflow_rt.runtime import Runtime

pytestmark = pytest.mark.gpu
PROMPT = "a large red circle moving right on a black background"
STEPS = 4


@pytest.fixture(scope="module", params=PACKAGES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, str]:
    """The shapes checkpoint's bundle with an engine of each package that is installed, and the package."""
    target, package = present_target(), request.param
    if target is None:
        pytest.skip("needs an NVIDIA GPU and its driver")
    if importlib.util.find_spec(package) is None or target not in PACKAGE_TARGETS[package]:
        pytest.skip(f"{package} is not installed or has no {target}")
    out = tmp_path_factory.mktemp("gpu") / "bundle"
    report = build(
        BuildOptions(
            checkpoint=str(SHAPES_CHECKPOINT),
            out=Path(out),
            targets=(target,),
            engine=package,
            check_parity=False,
            calibrate=False,
        ),
        print,
    )
    return Bundle.open(report.path), package


def test_parity_replay_time_and_memory(made: tuple[Bundle, str]) -> None:
    import torch

    bundle, package = made
    with Runtime(bundle, engine="onnxruntime", precision="fp32") as runtime:
        wanted = runtime.generate(PROMPT, steps=STEPS, seed=1)
    torch.cuda.reset_peak_memory_stats()
    with Runtime(bundle, engine=package) as runtime:
        first = runtime.generate(PROMPT, steps=STEPS, seed=1)
        again = runtime.generate(PROMPT, steps=STEPS, seed=1)
        start = time.perf_counter()
        runtime.generate(PROMPT, steps=16, seed=1)
        whole = time.perf_counter() - start
        with_guidance = runtime.generate(PROMPT, steps=STEPS, seed=1, guidance_scale=1.5, negative_prompt="a square")
    error = np.linalg.norm(first.latents - wanted.latents) / np.linalg.norm(wanted.latents)
    squared = np.mean((first.frames.astype(np.float64) - wanted.frames) ** 2)
    psnr = 10 * np.log10(255**2 / squared)
    free, total = torch.cuda.mem_get_info()
    print(f"{package}: latents off by {100 * error:.2f}%, frames {psnr:.1f} dB, 16 steps in {whole:.3f} s")
    print(f"jumps of 4 steps: {[round(1e3 * seconds, 2) for seconds in again.seconds['jumps']]} ms")
    print(
        f"memory in use {(total - free) / 1e9:.2f} GB, PyTorch's peak {torch.cuda.max_memory_allocated() / 1e9:.3f} GB"
    )
    assert error < 0.03
    assert psnr > 40
    assert np.array_equal(first.frames, again.frames), "a replayed graph gives the same bits"
    assert not np.array_equal(with_guidance.latents, first.latents)


def test_prompts_of_every_length(made: tuple[Bundle, str]) -> None:
    """Prompts are filled up to a profile's length; what fills them must not be seen."""
    bundle, package = made
    words = PROMPT.split()
    for count in (1, len(words), 4 * len(words)):
        prompt = " ".join((words * 4)[:count])
        with Runtime(bundle, engine="onnxruntime", precision="fp32") as runtime:
            wanted = runtime.generate(prompt, steps=1, seed=2).latents
        with Runtime(bundle, engine=package) as runtime:
            found = runtime.generate(prompt, steps=1, seed=2).latents
        assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 0.03, count
