"""A causal stream on the Triton engine of this machine's GPU. ``pytest -m gpu -s tests/gpu``; elsewhere skipped."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anyflow_rt
from anyflow_rt.build import build
from anyflow_rt.build_plan import BuildOptions
from anyflow_rt.engines.gpu import present_target
from anyflow_rt.engines.triton_build import TARGETS
from anyflow_rt.parity import LATENT_BOUND
from anyflow_rt.result import Result
from anyflow_rt.runtime import Runtime
from anyflow_rt.shipped import CAUSAL_CHECKPOINT

pytestmark = pytest.mark.gpu
PROMPT = "a large red circle moving right on a black background"
OPTIONS: dict[str, Any] = {"steps": 4, "seed": 1, "num_frames": 57}
"""Eight chunks."""
TOLERANCE = {"fp32": LATENT_BOUND, "bf16": 0.05}
"""Of latents against ONNX Runtime's in float32."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The causal shapes checkpoint's, with an engine for this GPU at either precision."""
    target = present_target()
    if target is None:
        pytest.skip("needs an NVIDIA GPU and its driver")
    if importlib.util.find_spec("triton") is None or target not in TARGETS:
        pytest.skip(f"triton is not installed or has no {target}")
    path = tmp_path_factory.mktemp("gpu") / "bundle"
    for precision in TOLERANCE:
        options: dict[str, Any] = {"targets": (target,), "engine": "triton", "precision": precision}
        options |= {"check_parity": False, "calibrate": False}
        build(BuildOptions(checkpoint=str(CAUSAL_CHECKPOINT), out=path, **options), print)
    return path


@pytest.fixture(scope="module")
def golden(bundle: Path) -> Result:
    with anyflow_rt.load(bundle, engine="onnxruntime") as runtime:
        return runtime.generate(PROMPT, **OPTIONS)


def streamed(runtime: Runtime, **changes: Any) -> tuple[np.ndarray, Result]:
    with runtime.stream(PROMPT, **{**OPTIONS, **changes}) as stream:
        frames = np.concatenate([chunk.frames for chunk in stream], axis=1)
        return frames, stream.result()


@pytest.mark.parametrize("precision", TOLERANCE)
def test_a_stream_and_what_its_chunks_take(bundle: Path, golden: Result, precision: str) -> None:
    import torch

    with anyflow_rt.load(bundle, engine="triton", precision=precision) as runtime:
        frames, first = streamed(runtime)
        allocated = torch.cuda.memory_allocated()
        again, result = streamed(runtime)
        assert torch.cuda.memory_allocated() <= allocated, "the cache of the first run serves the second"
        continued = runtime.generate(PROMPT, video=frames[0, :9], **OPTIONS)
        denoiser = runtime._components.get("denoiser")
        graphs = len(denoiser._graphs._captured)
    error = np.linalg.norm(first.latents - golden.latents) / np.linalg.norm(golden.latents)
    print(f"triton {precision}: latents off by {100 * error:.4f}% of ONNX Runtime's, {graphs} graphs")
    assert result.stream is not None
    for index, (chunk, ready) in enumerate(zip(result.chunks, result.stream.ready, strict=True)):
        print(
            f"  chunk {index}: {chunk.frames} latent frames, jumps {1e3 * chunk.seconds:.2f} ms, cache "
            f"{1e3 * chunk.cache_seconds:.2f} ms, there after {1e3 * ready:.1f} ms"
        )
    assert error < TOLERANCE[precision]
    assert np.array_equal(first.latents, result.latents), "a replayed graph gives the same bits"
    assert np.abs(frames.astype(int) - again.astype(int)).max() <= 1
    assert graphs <= 3, "one for each length of a chunk, however full the cache is"
    assert continued.chunks[0].steps == 0 and np.isfinite(continued.latents).all()
