"""Causal checkpoints on TensorRT, on the GPU of this machine. ``pytest -m gpu tests/gpu``; elsewhere skipped."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from support.gpu_engines import built_here

import anyflow_rt
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.tensorrt.package import PACKAGES
from anyflow_rt.errors import UsageError
from anyflow_rt.runtime import Runtime

pytestmark = pytest.mark.gpu
PROMPT = "a large red circle moving right on a black background"
STEPS = 4
FRAMES = 57
"""Eight chunks of the shapes checkpoint: some are compressed, and rows of the cache move."""


@pytest.fixture(scope="module", params=PACKAGES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, str]:
    """The causal shapes checkpoint's bundle with an engine of each package that is installed, and the package."""
    out, package = tmp_path_factory.mktemp("gpu") / "bundle", request.param
    return built_here("shapes-causal", package, out, num_frames=FRAMES), package


@pytest.fixture(scope="module")
def clip(made: tuple[Bundle, str]) -> np.ndarray:
    """Nine frames to begin with."""
    with Runtime(made[0], engine="onnxruntime", precision="fp32") as runtime:
        return runtime.generate(PROMPT, steps=STEPS, seed=3, num_frames=9).frames[0]


@pytest.mark.parametrize("begin", ["text", "image", "video", "guided", "short"])
def test_parity(made: tuple[Bundle, str], clip: np.ndarray, begin: str) -> None:
    bundle, package = made
    options: dict[str, Any] = {
        "text": {},
        "image": {"image": clip[0]},
        "video": {"video": clip},
        "guided": {"guidance_scale": 1.5, "negative_prompt": "a square"},
        "short": {"num_frames": 13},
    }[begin]
    found, wanted = (
        sampled(bundle, engine, precision, **options)
        for engine, precision in ((package, None), ("onnxruntime", "fp32"))
    )
    difference = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(found[0], wanted[0], strict=True)]
    print(f"{package} {begin}: latents are off by {100 * max(difference):.2f}% in the worst frame")
    assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 0.03


def sampled(bundle: Bundle, engine: str, precision: str | None, **options: Any) -> np.ndarray:
    with Runtime(bundle, engine=engine, precision=precision) as runtime:
        return runtime.generate(PROMPT, steps=STEPS, seed=1, output="latents", **options).latents


def test_the_cache_stays_where_it_is(made: tuple[Bundle, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values are each read at one address; of what is uploaded, only the first chunk's zeros are theirs."""
    import torch

    from anyflow_rt.engines.tensorrt.buffers import Buffers

    uploaded: list[int] = []
    places: dict[str, set[int]] = {"cache_key": set(), "cache_value": set()}
    upload = Buffers.input

    def noted(self: Buffers, name: str, array: Any, dtype: Any) -> Any:
        result = upload(self, name, array, dtype)
        if name in places:
            if isinstance(array, torch.Tensor):
                assert result.data_ptr() == array.data_ptr(), "dense, and of the engine's type: no copy"
                places[name].add(result.data_ptr())
            else:
                assert not array.any()
                uploaded.append(array.shape[3])
        return result

    monkeypatch.setattr(Buffers, "input", noted)
    bundle, package = made
    sampled(bundle, package, None)
    assert all(len(found) == 1 for found in places.values()), places
    assert max(uploaded) < 128


def test_a_stream_decodes_beside_the_jumps(made: tuple[Bundle, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On the GPU's own clock, from when an engine has its turn: those that take turns never overlap."""
    import torch

    from anyflow_rt.engines.tensorrt.contexts import Contexts

    spans: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {}
    execute = Contexts.execute

    def timed(self: Contexts, *arguments: Any) -> None:
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record(self.stream)
        execute(self, *arguments)
        ended.record(self.stream)
        spans.setdefault(threading.current_thread().name, []).append((begun, ended))

    bundle, package = made
    with anyflow_rt.load(bundle.path, engine=package) as runtime:
        whole = runtime.generate(PROMPT, steps=STEPS, seed=1)
        runtime.generate(PROMPT, steps=STEPS, seed=1)
        monkeypatch.setattr(Contexts, "execute", timed)
        origin = torch.cuda.Event(enable_timing=True)
        origin.record()
        begun = time.perf_counter()
        with runtime.stream(PROMPT, steps=STEPS, seed=1) as stream:
            frames = np.concatenate([chunk.frames for chunk in stream], axis=1)
            result = stream.result()
    taken = time.perf_counter() - begun
    assert np.array_equal(frames, whole.frames)
    torch.cuda.synchronize()
    decoding, jumping = (
        [(origin.elapsed_time(first), origin.elapsed_time(last)) for first, last in spans[f"anyflow-rt-{work}"]]
        for work in ("decode", "denoise")
    )
    overlapping = sum(
        max(0.0, min(end, stop) - max(start, first)) for start, end in decoding for first, stop in jumping
    )
    print(
        f"{package}: streamed in {taken:.3f} s, {sum(end - start for start, end in decoding):.1f} ms of them "
        f"decoding, {overlapping:.1f} ms beside the denoiser; the first frame after {result.stream.first_frame}"
    )
    assert overlapping > 0


def test_longer_videos_are_refused(made: tuple[Bundle, str]) -> None:
    bundle, package = made
    with (
        anyflow_rt.load(bundle.path, engine=package) as runtime,
        pytest.raises(UsageError, match=r"remembers up to \d+ tokens of earlier chunks"),
    ):
        runtime.generate(PROMPT, num_frames=FRAMES + 4)
