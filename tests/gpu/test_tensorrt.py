"""TensorRT on the GPU of this machine: what only a GPU can show. ``pytest -m gpu tests/gpu``; elsewhere skipped."""

from __future__ import annotations

import importlib.util
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.gpu_engines import built_here

import anyflow_rt
from anyflow_rt.build_engines import EngineOptions, add_engines
from anyflow_rt.choice import Call
from anyflow_rt.engines import locations
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.tensorrt.package import PACKAGES, RTX
from anyflow_rt.engines.tensorrt.record import read_facts
from anyflow_rt.engines.tensorrt.residency import needed
from anyflow_rt.engines.tensorrt.settings import TensorRtSettings
from anyflow_rt.errors import EngineError, UsageError
from anyflow_rt.loading import SHAPES_CHECKPOINT
from anyflow_rt.result import Result
from anyflow_rt.runtime import Runtime

pytestmark = pytest.mark.gpu
PROMPT = "a large red circle moving right on a black background"
STEPS = 4


@pytest.fixture(scope="module", params=PACKAGES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, str]:
    """The shapes checkpoint's bundle with an engine of each package that is installed, and the package."""
    out, package = tmp_path_factory.mktemp("gpu") / "bundle", request.param
    settings = TensorRtSettings(weight_streaming=True)
    return built_here(str(SHAPES_CHECKPOINT), package, out, tensorrt=settings), package


def sampled(bundle: Bundle, package: str, **loading: Any) -> Result:
    with anyflow_rt.load(bundle.path, engine=package, **loading) as runtime:
        return runtime.generate(PROMPT, steps=STEPS, seed=1)


def test_parity_replay_time_and_memory(made: tuple[Bundle, str]) -> None:
    import torch

    bundle, package = made
    with Runtime(bundle, engine="onnxruntime", precision="fp32") as runtime:
        wanted = runtime.generate(PROMPT, steps=STEPS, seed=1)
    torch.cuda.reset_peak_memory_stats()
    with Runtime(bundle, engine=package) as runtime:
        first = runtime.generate(PROMPT, steps=STEPS, seed=1)
        runtime.generate(PROMPT, steps=STEPS, seed=1)  # the second time graphs are captured, from then on replayed
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
    print(f"jumps of 4 steps: {[round(1e3 * seconds, 2) for seconds in again.seconds.jumps]} ms")
    print(
        f"memory in use {(total - free) / 1e9:.2f} GB, PyTorch's peak {torch.cuda.max_memory_allocated() / 1e9:.3f} GB"
    )
    print(f"the driver says {again.gpu}")
    assert error < 0.03
    assert psnr > 40
    assert np.array_equal(first.frames, again.frames), "a replayed graph gives the same bits"
    assert not np.array_equal(with_guidance.latents, first.latents)
    assert (again.gpu is None) == (importlib.util.find_spec("pynvml") is None)


def test_between_jumps_the_state_is_not_copied(made: tuple[Bundle, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """z_r of one jump is z_t of the next, keys and values stay where they are, rotary tables are uploaded once."""
    from anyflow_rt.engines.tensorrt.buffers import Buffers

    uploaded: list[tuple[str, int]] = []
    upload = Buffers.input

    def noted(self: Buffers, name: str, array: Any, dtype: Any) -> Any:
        result = upload(self, name, array, dtype)
        if result is not array:
            uploaded.append((name, result.shape[1]))
        return result

    monkeypatch.setattr(Buffers, "input", noted)
    bundle, package = made
    sampled(bundle, package)
    names = [name for name, _ in uploaded]
    # The decoder's latents come from the host, one frame at a time; the denoiser's are all frames, and the noise alone.
    assert len([name for name, frames in uploaded if name == "latents" and frames > 1]) == 1
    assert not {"cross_key", "cross_value", "context_bias", "cache_0"} & set(names), names


def test_every_residency_gives_the_same(made: tuple[Bundle, str]) -> None:
    bundle, package = made
    results = {name: sampled(bundle, package, residency=name) for name in ("resident", "sequential", "streaming")}
    for name, result in results.items():
        assert np.array_equal(result.frames, results["resident"].frames), name


def test_memory_is_as_the_build_told(made: tuple[Bundle, str]) -> None:
    """What is refused before anything is opened is refused by these figures."""
    bundle, package = made
    (record,) = (each for each in bundle.manifest.engines if each.engine == package)
    facts = read_facts(bundle.engine_path(record, "denoiser").parent)
    with Runtime(bundle, engine=package) as runtime:
        runtime.wait()
        for name, part in facts.components.items():
            size = runtime._components.get(name)._engine.device_memory_size_v2  # type: ignore[attr-defined]
            print(f"{name}: told {part['working']}, takes {size}")
            assert part["working"] is not None and part["working"] == pytest.approx(size, rel=0.1, abs=1 << 20)


def test_too_little_memory_is_said_at_once(made: tuple[Bundle, str]) -> None:
    import torch

    bundle, package = made
    (record,) = (each for each in bundle.manifest.engines if each.engine == package)
    facts = read_facts(bundle.engine_path(record, "denoiser").parent)
    free = torch.cuda.mem_get_info()[0]
    taken = torch.empty(free - needed(facts, "streaming") - (1 << 27), dtype=torch.uint8, device="cuda")
    try:
        with pytest.raises(EngineError, match="GB free; close other programs on it"):
            anyflow_rt.load(bundle.path, engine=package)
    finally:
        del taken
        torch.cuda.empty_cache()


def test_a_damaged_engine_is_refused(made: tuple[Bundle, str], tmp_path: Path) -> None:
    bundle, package = made
    copy = Bundle.open(shutil.copytree(bundle.path, tmp_path / "bundle"))
    (record,) = (each for each in copy.manifest.engines if each.engine == package)
    engine = copy.engine_path(record, "denoiser")
    data = bytearray(engine.read_bytes())
    data[:4096] = bytes(4096)
    engine.write_bytes(data)
    with pytest.raises(EngineError, match=r"denoiser\.engine cannot be loaded .*; make it with  anyflow-rt build"):
        sampled(copy, package)


def test_what_no_engine_is_built_for_is_refused_at_once(made: tuple[Bundle, str]) -> None:
    bundle, package = made
    with anyflow_rt.load(bundle.path, engine=package) as runtime:
        with pytest.raises(UsageError, match=r"2 videos at once were asked for and the engine takes 1; .* --batch 2"):
            runtime.generate(PROMPT, num_videos=2)
        with pytest.raises(UsageError, match="ask for that size, or build for the other"):
            runtime.generate(PROMPT, num_frames=5)


@pytest.mark.parametrize("given", [1, 9])
def test_a_picture_and_a_clip(made: tuple[Bundle, str], given: int) -> None:
    """What a video begins with is encoded as on a CPU, and stays bit for bit; then the encoder is closed."""
    bundle, package = made
    with Runtime(bundle, engine="onnxruntime", precision="fp32") as runtime:
        frames = runtime.generate(PROMPT, steps=STEPS, seed=3).frames[0]
        begun = {"image": frames[0]} if given == 1 else {"video": frames[:given]}
        wanted = runtime.generate(PROMPT, steps=STEPS, seed=1, **begun)
    count = (given - 1) // 4 + 1
    for residency in ("resident", "sequential"):
        with Runtime(bundle, engine=package, residency=residency) as runtime:
            found, once = (runtime.generate(PROMPT, steps=steps, seed=1, **begun) for steps in (STEPS, 1))
            still_open = {"vae_encoder_first", "vae_encoder_next"} & set(runtime._components._futures)
        assert bool(still_open) == (residency == "resident")
        assert np.array_equal(found.latents[:, :count], once.latents[:, :count])
        parts = {"given": slice(count), "made": slice(count, None)}
        for name, part in parts.items():
            exact = wanted.latents[:, part]
            error = np.linalg.norm(found.latents[:, part] - exact) / np.linalg.norm(exact)
            print(
                f"{package} {residency}: {given} frames given, latents that were {name} are off by {100 * error:.2f}%"
            )
            assert error < 0.03


def test_several_videos_in_one_call(made: tuple[Bundle, str], tmp_path: Path) -> None:
    bundle, package = made
    (record,) = (each for each in bundle.manifest.engines if each.engine == package)
    shutil.copytree(bundle.path, tmp_path / "bundle")
    options = EngineOptions(tmp_path / "bundle", (record.target,), package, tensorrt=TensorRtSettings(batch=3))
    several = Bundle.open(add_engines(options, print).path)
    prompts = [PROMPT, "a small blue square moving up on a white background", "a green triangle"]
    with Runtime(several, engine=package, meant_for=Call(videos=3)) as runtime:
        together = runtime.generate(prompts, steps=STEPS, seed=[1, 2, 3], output="latents").latents
        alone = runtime.generate(prompts[1], steps=STEPS, seed=2, output="latents").latents
    assert np.linalg.norm(together[1] - alone[0]) / np.linalg.norm(alone) < 0.03


def test_what_rtx_compiles_here_is_kept(made: tuple[Bundle, str]) -> None:
    bundle, package = made
    if package != RTX:
        pytest.skip("only TensorRT for RTX compiles on the GPU")
    sampled(bundle, package)
    assert list(locations.compiled_cache(bundle.id).glob("*-denoiser.runtime"))


def test_prompts_of_every_length(made: tuple[Bundle, str], tmp_path: Path) -> None:
    """Prompts are filled up to a profile's length; what fills them must not be seen. Nor may the prompt cache be."""
    bundle, package = made
    words = PROMPT.split()
    for count in (1, len(words), 4 * len(words)):
        prompt = " ".join((words * 4)[:count])
        with Runtime(bundle, engine="onnxruntime", precision="fp32") as runtime:
            wanted = runtime.generate(prompt, steps=1, seed=2).latents
        for _ in range(2):
            with Runtime(bundle, engine=package, prompt_cache=tmp_path) as runtime:
                found = runtime.generate(prompt, steps=1, seed=2).latents
            assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 0.03, count
