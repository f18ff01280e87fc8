"""The streamed VAE against diffusers' AutoencoderKLWan: as modules, and as ONNX graphs at other sizes than traced."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from diffusers import AutoencoderKLWan
from support.checkpoints import RGB_PATCHES, randomise
from torch import Tensor

from anyflow_rt.engines import vae_cache
from anyflow_rt.engines.architecture import (
    Architecture,
    SchedulerConfig,
    TextEncoderConfig,
    TransformerConfig,
    VaeConfig,
)
from anyflow_rt.engines.export import vae_decoder, vae_encoder
from anyflow_rt.engines.export.components import export_component
from anyflow_rt.engines.openvino_package import core, processor_has_bf16

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "three_levels_patched": {
        "base_dim": 6,
        "z_dim": 4,
        "dim_mult": [1, 2, 4],
        "num_res_blocks": 1,
        "temperal_downsample": [True, True],
        **RGB_PATCHES,
    },
    "four_levels": {
        "base_dim": 4,
        "z_dim": 6,
        "dim_mult": [1, 2, 4, 4],
        "num_res_blocks": 1,
        "temperal_downsample": [False, True, True],
    },
    "wider_decoder": {
        "base_dim": 4,
        "decoder_base_dim": 6,
        "z_dim": 3,
        "dim_mult": [1, 2, 2, 2],
        "num_res_blocks": 1,
        "temperal_downsample": [True, False, True],
    },
    "residual_patched": {
        "base_dim": 4,
        "decoder_base_dim": 6,
        "z_dim": 5,
        "dim_mult": [1, 2, 4, 4],
        "num_res_blocks": 1,
        "temperal_downsample": [False, True, True],
        "is_residual": True,
        **RGB_PATCHES,
    },
    "residual_early_time": {
        "base_dim": 4,
        "z_dim": 4,
        "dim_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "temperal_downsample": [True, True, False],
        "is_residual": True,
    },
}
GRAPHS = ("vae_decoder_first", "vae_decoder_next", "vae_encoder_first", "vae_encoder_next")

# (batch, latent height, latent width), and the latent frames of each call; the first call has always one.
RUNS = [
    ((1, 3, 5), (1,)),
    ((2, 5, 2), (1, 1)),
    ((1, 1, 1), (1, 1, 1)),
    ((1, 2, 3), (1, 3)),
    ((2, 1, 2), (1, 1, 2)),
]

Arrays = list[np.ndarray]
Graph = Callable[..., Sequence[Any]]


@dataclass(frozen=True)
class Case:
    """diffusers' network, and our view of its configuration."""

    reference: AutoencoderKLWan
    vae: VaeConfig


def make_case(name: str) -> Case:
    values = CONFIGURATIONS[name]
    generator = torch.Generator().manual_seed(len(name))
    mean = torch.randn(values["z_dim"], generator=generator).tolist()
    deviation = (0.5 + 1.5 * torch.rand(values["z_dim"], generator=generator)).tolist()
    values = {**values, "latents_mean": mean, "latents_std": deviation}
    reference = AutoencoderKLWan(**values).eval().requires_grad_(False)
    randomise(reference, generator)
    frozen = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Case(reference, VaeConfig(**frozen))


@pytest.fixture(scope="module", params=list(CONFIGURATIONS))
def case(request: pytest.FixtureRequest) -> Case:
    return make_case(request.param)


def statistics(case: Case) -> tuple[Tensor, Tensor]:
    """The latents' mean and inverse standard deviation, as the pipeline shapes them."""
    mean = torch.tensor(case.vae.latents_mean).view(1, -1, 1, 1, 1)
    return mean, 1.0 / torch.tensor(case.vae.latents_std).view(1, -1, 1, 1, 1)


def reference_frames(case: Case, latents: Tensor) -> np.ndarray:
    """What the pipeline makes of the sampler's latents (B, F, C, H, W), as uint8 frames."""
    mean, inverse = statistics(case)
    video = case.reference.decode(latents.transpose(1, 2) / inverse + mean, return_dict=False)[0]
    video = (video / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 4, 1).numpy()
    return (video * 255).round().astype("uint8")


def reference_latents(case: Case, frames: Tensor) -> np.ndarray:
    """What the pipeline's ``encode_video`` makes of uint8 frames (B, T, H, W, 3)."""
    mean, inverse = statistics(case)
    video = (2.0 * (frames.float() / 255.0) - 1.0).permute(0, 4, 1, 2, 3)
    moments = case.reference._encode(video)
    return ((moments.chunk(2, dim=1)[0] - mean) * inverse).transpose(1, 2).numpy()


def stream(first: Graph, following: Graph, video: np.ndarray, calls: Sequence[int], per_latent: int) -> Arrays:
    """Run ``video`` in ``calls``: [result, cache_0, ...]. ``per_latent`` frames of ``video`` go to a latent frame."""
    result, *caches = first(video[:, :1])
    results, start = [result], 1
    for call in calls[1:]:
        stop = start + call * per_latent
        result, *caches = following(np.ascontiguousarray(video[:, start:stop]), *caches)
        results.append(result)
        start = stop
    return [np.concatenate(results, axis=1), *caches]


def modules_of(first: torch.nn.Module, following: torch.nn.Module) -> tuple[Graph, Graph]:
    def run(module: torch.nn.Module) -> Graph:
        return lambda video, *caches: [
            value.numpy() for value in module(torch.from_numpy(video), tuple(map(torch.from_numpy, caches)))
        ]

    return run(first), run(following)


def assert_frames(got: np.ndarray, want: np.ndarray) -> None:
    """Within 1 of 255, and that only where a value lies at a rounding edge."""
    assert got.dtype == np.uint8 and got.shape == want.shape
    assert want.std() > 10, "a picture of nothing would prove nothing"
    difference = np.abs(got.astype(int) - want)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


def assert_latents(got: np.ndarray, want: np.ndarray) -> None:
    assert got.shape == want.shape
    assert np.linalg.norm(got - want) <= 1e-4 * np.linalg.norm(want)


def random_latents(case: Case, size: tuple[int, int, int], frames: int) -> np.ndarray:
    batch, height, width = size
    generator = torch.Generator().manual_seed(frames)
    return torch.randn((batch, frames, case.vae.z_dim, height, width), generator=generator).numpy()


def random_frames(case: Case, size: tuple[int, int, int], latent_frames: int) -> np.ndarray:
    batch, height, width = size
    factor, frames = case.vae.spatial_factor, 1 + 4 * (latent_frames - 1)
    return np.random.default_rng(frames).integers(
        0, 256, (batch, frames, height * factor, width * factor, 3), dtype=np.uint8
    )


@torch.no_grad()
def test_decoder_modules_equal_the_reference_however_the_frames_are_grouped(case: Case) -> None:
    weights = case.reference.state_dict()
    graphs = modules_of(vae_decoder.build_first(case.vae, weights), vae_decoder.build_next(case.vae, weights))
    latents = random_latents(case, (2, 2, 3), 4)
    want = reference_frames(case, torch.from_numpy(latents))
    singly = stream(*graphs, latents, (1, 1, 1, 1), per_latent=1)
    assert_frames(singly[0], want)
    for calls in ((1, 3), (1, 2, 1)):
        grouped = stream(*graphs, latents, calls, per_latent=1)
        assert_frames(grouped[0], want)
        for one, other in zip(singly[1:], grouped[1:], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    assert [cache.shape for cache in singly[1:]] == concrete(vae_cache.decoder_caches(case.vae), 2, 2, 3)


def concrete(caches: tuple[vae_cache.CacheShape, ...], *size: int) -> list[tuple[int, ...]]:
    """Their shapes at a batch, latent height and width."""
    return [cache.concrete(*size) for cache in caches]


@torch.no_grad()
def test_encoder_modules_equal_the_reference_however_the_frames_are_grouped(case: Case) -> None:
    weights = case.reference.state_dict()
    graphs = modules_of(vae_encoder.build_first(case.vae, weights), vae_encoder.build_next(case.vae, weights))
    frames = random_frames(case, (2, 2, 3), 4)
    want = reference_latents(case, torch.from_numpy(frames))
    for calls in ((1, 1, 1, 1), (1, 3), (1, 2, 1)):
        latents, *caches = stream(*graphs, frames, calls, per_latent=4)
        assert_latents(latents, want)
        assert [cache.shape for cache in caches] == concrete(vae_cache.encoder_caches(case.vae), 2, 2, 3)


@torch.no_grad()
def test_attention_at_a_scale_of_the_encoder() -> None:
    """The reference streams no such encoder (its attention takes no cache): its cacheless pass on one frame judges."""
    values = {"base_dim": 4, "dim_mult": [1, 2, 2], "num_res_blocks": 2, "temperal_downsample": [True, True]}
    statistics = {"latents_mean": [0.0] * 16, "latents_std": [1.0] * 16}
    reference = AutoencoderKLWan(**values, **statistics, attn_scales=[0.5]).eval().requires_grad_(False)
    randomise(reference, torch.Generator().manual_seed(0))
    frozen = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    vae = VaeConfig(**frozen, latents_mean=(0.0,) * 16, latents_std=(1.0,) * 16, attn_scales=(0.5,))
    frames = torch.randint(0, 256, (1, 1, 12, 8, 3), dtype=torch.uint8)
    latents = vae_encoder.build_first(vae, reference.state_dict())(frames)[0]
    video = (frames.float() / 127.5 - 1.0).permute(0, 4, 1, 2, 3)
    want = reference.quant_conv(reference.encoder(video)).chunk(2, dim=1)[0].transpose(1, 2)
    assert_latents(latents.numpy(), want.numpy())


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Case, Path]]:
    """By configuration: the case and the folder of its four graphs, exported once."""

    @cache
    def export(configuration: str) -> tuple[Case, Path]:
        case, folder = make_case(configuration), tmp_path_factory.mktemp("vae")
        unused = TextEncoderConfig(vocab_size=1, d_model=1, d_kv=1, d_ff=1, num_layers=1, num_heads=1)
        architecture = Architecture("AnyFlowPipeline", TransformerConfig(), case.vae, unused, SchedulerConfig())
        for name in GRAPHS:
            export_component(name, architecture, case.reference.state_dict(), folder / f"{name}.onnx")
        return case, folder

    return export


def onnx_graph(path: Path) -> Graph:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))


def openvino_graph(path: Path, precision: str) -> Graph:
    compiled = core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": precision})

    def run(*arrays: np.ndarray) -> Arrays:
        results = compiled(list(arrays))
        return [results[port].copy() for port in compiled.outputs]

    return run


def open_graphs(folder: Path, engine: str, precision: str) -> dict[str, Graph]:
    """The four graphs of ``folder`` in one engine."""
    if engine == "onnxruntime":
        return {name: onnx_graph(folder / f"{name}.onnx") for name in GRAPHS}
    pytest.importorskip("openvino")
    if precision == "bf16" and not processor_has_bf16():
        pytest.skip("this processor has no bf16")
    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    return {name: openvino_graph(folder / f"{name}.onnx", hint) for name in GRAPHS}


@pytest.mark.parametrize(("engine", "precision"), [("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")])
@pytest.mark.parametrize("configuration", ["three_levels_patched", "residual_patched"])
@torch.no_grad()
def test_graphs_equal_the_reference_at_any_size(
    exports: Callable[[str], tuple[Case, Path]], configuration: str, engine: str, precision: str
) -> None:
    case, folder = exports(configuration)
    graphs = open_graphs(folder, engine, precision)
    for size, calls in RUNS:
        latents, frames = random_latents(case, size, sum(calls)), random_frames(case, size, sum(calls))
        decoded, *caches = stream(graphs["vae_decoder_first"], graphs["vae_decoder_next"], latents, calls, 1)
        assert [cache.shape for cache in caches] == concrete(vae_cache.decoder_caches(case.vae), *size)
        encoded, *caches = stream(graphs["vae_encoder_first"], graphs["vae_encoder_next"], frames, calls, 4)
        assert [cache.shape for cache in caches] == concrete(vae_cache.encoder_caches(case.vae), *size)
        want_frames = reference_frames(case, torch.from_numpy(latents))
        want_latents = reference_latents(case, torch.from_numpy(frames))
        if precision == "fp32":
            assert_frames(decoded, want_frames)
            assert_latents(encoded, want_latents)
        else:
            assert decoded.shape == want_frames.shape
            error = np.mean((decoded.astype(float) - want_frames) ** 2)
            assert 10 * np.log10(255.0**2 / error) >= 40
            assert np.linalg.norm(encoded - want_latents) <= 0.02 * np.linalg.norm(want_latents)


def test_cache_shapes_need_no_torch() -> None:
    program = (
        "import sys; from anyflow_rt.engines import vae_cache, architecture;"
        "vae_cache.decoder_caches(architecture.VaeConfig()); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-P", "-c", program], check=False).returncode == 0
