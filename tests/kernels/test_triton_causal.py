"""Causal checkpoints on the Triton engine: chunks over a cache that is written and read in place."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import random_bundle
from support.causal import CausalCheckpoint
from support.clips import moving_disc

from anyflow_rt.admission import admit
from anyflow_rt.build import build
from anyflow_rt.build_plan import BuildOptions
from anyflow_rt.components import COMPUTE_TYPE_PORTS
from anyflow_rt.engines import triton_build, triton_caches, triton_shared
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.geometry import VideoSize, latent_size
from anyflow_rt.engines.registry import open_engine
from anyflow_rt.engines.torch_pack import Packed, pack_component, pack_header
from anyflow_rt.engines.triton_caches import ALIGNED_TOKENS
from anyflow_rt.engines.triton_modules import expected_launches
from anyflow_rt.errors import EngineError, UsageError
from anyflow_rt.kernels import launch
from anyflow_rt.kernels.launch import INTERPRETER, Launch
from anyflow_rt.kernels.package import INTERPRETED
from anyflow_rt.parity import FRAME_BOUND, LATENT_BOUND
from anyflow_rt.runtime import Runtime

COMPONENTS = ("conditioner", "time_embedder", "denoiser", "full_tokens", "far_tokens", "cache_writer")
NAME = "released_rule"
SIZE = VideoSize(17, 32, 48)
CLIP = moving_disc(5, 32, 48)
PROMPT = "a red circle"


@dataclass
class PackedComponents:
    """``Components`` of a checkpoint, each packed and opened when it is asked for; ``text_encoder`` is the module's."""

    made: CausalCheckpoint
    precision: str = "fp32"
    engines: dict[str, Any] = field(default_factory=dict)

    def get(self, name: str) -> Any:
        if name not in COMPONENTS:
            return self.made.components.get(name)
        if name not in self.engines:
            for each in {"denoiser", name} if name == "cache_writer" else {name}:
                self.pack(each)
            self.engines[name] = open_engine(
                "triton", self.path(name), precision=self._precision(name), compute_type=COMPUTE_TYPE_PORTS
            )
        return self.engines[name]

    def path(self, name: str) -> Path:
        return self.made.path.parent / f"packed-{self.precision}" / f"{name}.safetensors"

    def pack(self, name: str) -> None:
        if self.path(name).is_file():
            return
        self.path(name).parent.mkdir(exist_ok=True)
        packed = Packed(name, self._precision(name), self.made.checkpoint.architecture)
        if name == "cache_writer":
            pack_header(packed, self.path(name))
        else:
            pack_component(packed, self.made.checkpoint, self.path(name))

    def close(self) -> None:
        for engine in self.engines.values():
            engine.close()
        self.engines.clear()

    def latents(self, *arguments: Any, **options: Any) -> np.ndarray:
        """What the checkpoint's own loop makes with these."""
        other = CausalCheckpoint(self.made.path, self.made.height, self.made.width)
        other.__dict__["components"] = self
        return other.latents(*arguments, **options)

    def _precision(self, name: str) -> str:
        return "fp32" if name == "time_embedder" else self.precision


@pytest.fixture(scope="module")
def one_block(tmp_path_factory: pytest.TempPathFactory) -> CausalCheckpoint:
    """Six latent frames in chunks of 1, 2, 1 and 2, the last of which sees the first compressed."""
    return CausalCheckpoint.make("one_block", tmp_path_factory.mktemp("causal"))


def apart(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """Every launch that is run."""
    seen: list[Launch] = []
    run = launch.Launch.run

    def noted(self: Launch) -> None:
        seen.append(self)
        run(self)

    monkeypatch.setattr(launch.Launch, "run", noted)
    return seen


@pytest.mark.parametrize(
    ("steps", "given", "options"),
    [(2, 0, {}), (1, 3, {"guidance_scale": 3.0}), (1, 1, {"incremental": False})],
    ids=["text", "clip, guided", "image, all anew"],
)
def test_chunks_are_those_of_the_graphs(
    steps: int, given: int, options: dict[str, Any], one_block: CausalCheckpoint, launched: list[Launch]
) -> None:
    """And so diffusers' (``test_causal.py``), whichever way what is compressed is written again."""
    components = PackedComponents(one_block)
    found = components.latents(steps, given, **options)
    assert apart(found, one_block.latents(steps, given, guidance_scale=options.get("guidance_scale", 1.0))) < (
        LATENT_BOUND / 10
    )
    denoiser, writer = components.get("denoiser"), components.get("cache_writer")
    assert denoiser._module.denoiser is writer._module.denoiser, "the blocks are there once"
    places = {each.tensors["past_key"].data_ptr() for each in launched if "past_key" in each.tensors}
    assert len(places) == 1 + ("guidance_scale" in options), "one place for all chunks of a prompt"
    components.close()


def test_chunks_in_bf16(one_block: CausalCheckpoint) -> None:
    components = PackedComponents(one_block, "bf16")
    assert apart(components.latents(1), one_block.latents(1)) < 2e-2
    components.close()


@pytest.fixture
def engines(one_block: CausalCheckpoint) -> Iterator[PackedComponents]:
    components = PackedComponents(one_block)
    yield components
    components.close()


def pass_inputs(made: CausalCheckpoint, frames: int, tokens: int) -> dict[str, np.ndarray]:
    """What the writer takes of a chunk but its cache."""
    config = made.checkpoint.architecture.transformer
    cross = (config.num_layers, 1, config.num_attention_heads, 3, config.attention_head_dim)
    arrays = {
        "tokens": (1, frames, tokens, config.inner_dim),
        "modulation": (1, frames, 6, config.inner_dim),
        "cross_key": cross,
        "cross_value": cross,
        "context_bias": (1, 3),
        "rope_cos": (frames * tokens, config.attention_head_dim // 2),
        "rope_sin": (frames * tokens, config.attention_head_dim // 2),
    }
    generator = np.random.default_rng(0)
    return {name: generator.standard_normal(shape, np.float32) for name, shape in arrays.items()}


def test_a_pass_writes_its_own_tokens_alone(
    engines: PackedComponents, one_block: CausalCheckpoint, launched: list[Launch]
) -> None:
    writer, config = engines.get("cache_writer"), one_block.checkpoint.architecture.transformer
    shape = (config.num_layers, 1, config.num_attention_heads, 20, config.attention_head_dim)
    ((key, value),) = engines.get("denoiser").new_caches(1, shape)
    assert key.shape[3] == 24 and key.shape[3] % ALIGNED_TOKENS == 0
    for cache in (key, value):
        cache.fill_(7)
    caches = {"cache_key": key, "cache_value": value, "cache_counts": np.array([5, 0], np.int32)}
    assert writer.infer(**pass_inputs(one_block, 2, 6), **caches) == {} == writer.outputs
    for cache in (key, value):
        assert bool((cache[:, :, :, :5] == 7).all() and (cache[:, :, :, 17:] == 7).all())
        assert not bool((cache[:, :, :, 5:17] == 7).any())
    assert len(launched) == 7 * config.num_layers - 5, "as the module's docstring says"
    wide = {**pass_inputs(one_block, 2, 6), **caches, "cache_counts": np.array([13, 0], np.int32)}
    with pytest.raises(EngineError, match="start is 13; accepted: whole numbers from 0 to 12"):
        writer.infer(**wide)
    with pytest.raises(EngineError, match="cache_key is used in place; give what the denoiser's new_caches gave"):
        writer.infer(**{**wide, "cache_key": key.cpu().numpy()})
    assert writer.new_caches(1, shape) is None, "the denoiser has them"


def test_a_jump_takes_no_copy_of_a_cache(engines: PackedComponents, one_block: CausalCheckpoint) -> None:
    denoiser, config = engines.get("denoiser"), one_block.checkpoint.architecture.transformer
    shape = (config.num_layers, 1, config.num_attention_heads, 8, config.attention_head_dim)
    ((key, value),) = denoiser.new_caches(1, shape)
    passed = pass_inputs(one_block, 2, 6)
    arrays = {name: passed[name] for name in denoiser.inputs if name in passed}
    arrays |= {
        "latents": np.zeros((1, 2, config.in_channels, 4, 6), np.float32),
        "head_modulation": np.zeros((1, 2, config.inner_dim), np.float32),
        "interval": np.zeros((1, 2), np.float32),
        "cache_counts": np.array([0, 0], np.int32),
    }
    caches = {"cache_key": key, "cache_value": value}
    assert np.isfinite(denoiser.infer(**arrays, **caches)["z_r"]).all()
    for change in (key.numpy(), key.mT.contiguous().mT):
        with pytest.raises(EngineError, match="cache_key is used in place; give what"):
            denoiser.infer(**arrays, **{**caches, "cache_key": change})


def test_weights_go_with_the_last_engine_that_has_them(engines: PackedComponents) -> None:
    for name in ("cache_writer", "denoiser"):
        engines.get(name)
    path = engines.path("denoiser").resolve()
    assert [key[0] for key in triton_shared._OPEN] == [path]
    engines.engines.pop("denoiser").close()
    assert len(triton_shared._OPEN) == 1
    engines.close()
    assert not len(triton_shared._OPEN)


def test_a_cache_has_one_attention(engines: PackedComponents, monkeypatch: pytest.MonkeyPatch) -> None:
    engines.pack("denoiser")
    monkeypatch.setenv("ANYFLOW_RT_ATTENTION", "sdpa")
    with pytest.raises(
        UsageError, match=r"ANYFLOW_RT_ATTENTION is 'sdpa', and a causal checkpoint's attention, .* unset"
    ):
        engines.get("denoiser")


def test_without_the_denoisers_file(engines: PackedComponents, tmp_path: Path) -> None:
    engines.pack("cache_writer")
    shutil.copy(engines.path("cache_writer"), tmp_path)
    with pytest.raises(EngineError, match=r"denoiser\.safetensors is no packed component .*make it again"):
        open_engine("triton", tmp_path / "cache_writer.safetensors", precision="fp32")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With an engine whose kernels nobody compiled: interpreted, they need not be."""
    made = random_bundle(NAME)
    path = Path(shutil.copytree(made.path, tmp_path_factory.mktemp("causal") / "bundle"))
    options = {
        "targets": ("sm_89",),
        "engine": "triton",
        "precision": "fp32",
        "check_parity": False,
        "calibrate": False,
    }
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(triton_build, "compile_kernels", lambda *arguments: 0)
        build(BuildOptions(checkpoint=str(made.checkpoint), out=path, **options))
    return Bundle.open(path)


@pytest.mark.skipif(not INTERPRETED, reason="the bundle is for sm_89; tests/gpu has this for the GPU that is there")
def test_runs_are_those_of_the_cpus_engine(bundle: Bundle, launched: list[Launch]) -> None:
    """Text, an image and a clip, and a stream, whose parts two threads make."""
    options: dict[str, Any] = {"max_sequence_length": 32, "steps": 1}
    options |= {"num_frames": SIZE.num_frames, "height": SIZE.height, "width": SIZE.width}
    given: dict[str, dict[str, Any]] = {"text": {}, "image": {"image": CLIP[0]}, "clip": {"video": CLIP}}
    with (
        Runtime(bundle, engine="triton", precision="fp32", specialize=False) as runtime,
        Runtime(bundle, engine="onnxruntime", precision="fp32", specialize=False) as golden,
    ):
        for name, context in given.items():
            wanted = golden.generate(PROMPT, **options, **context)
            if name == "text":
                with runtime.stream(PROMPT, **options) as stream:
                    frames = np.concatenate([chunk.frames for chunk in stream], axis=1)
                found = stream.result()
            else:
                found = runtime.generate(PROMPT, **options, **context)
                frames = found.frames
            assert apart(found.latents, wanted.latents) < LATENT_BOUND, name
            assert np.abs(frames.astype(int) - wanted.frames).max() <= FRAME_BOUND, name
    assert kinds(launched) <= kinds(triton_build.chunk_launches(*described(bundle))), "compiled ahead of time"


def test_a_video_that_the_gpu_has_no_memory_for_is_refused_before_any_work(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    (record,) = bundle.manifest.engines
    monkeypatch.setattr(triton_caches, "gpu_memory", lambda: (0, 24 * 10**9))
    options = {"num_frames": SIZE.num_frames, "height": SIZE.height, "width": SIZE.width, "steps": 1}
    with pytest.raises(EngineError, match=r"beside the denoiser 0\.0 of 24\.0 GB are free; make a shorter video"):
        admit(bundle, PROMPT, engine="triton", precision="fp32", output="frames", record=record, **options)


def described(bundle: Bundle) -> tuple[Any, ...]:
    return bundle.architecture, latent_size(bundle.architecture, SIZE), INTERPRETER, "fp32"


def kinds(launches: list[Launch]) -> set[Any]:
    """What kernels are compiled for."""
    return {
        (
            each.kernel.function.__name__,
            tuple(sorted(each.constants.items())),
            tuple((name, type(value), getattr(value, "dtype", None)) for name, value in each.arguments.items()),
        )
        for each in launches
    }


def test_launches_of_chunks_are_recorded(bundle: Bundle) -> None:
    """Per length of chunk, a jump's as planned, and two passes of the writer (one where nothing is compressed)."""
    architecture, latent, *rest = described(bundle)
    layers = architecture.transformer.num_layers
    jump = sum(expected_launches(layers, architecture.transformer.cross_attn_norm).values())
    launches = triton_build.chunk_launches(architecture, latent, *rest)
    lengths = {1, 3}
    assert len(launches) == len(lengths) * (jump + 2 * (7 * layers - 5))
