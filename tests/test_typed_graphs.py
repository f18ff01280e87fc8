"""Half-precision graphs: types where they belong, and how far from float32 they are, at one, four and sixteen steps."""

from __future__ import annotations

import shutil
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from support.half import emulate, session
from support.shapes_graphs import shapes_architecture, shapes_graph
from support.world_clips import true_clips

from anyflow_rt.benchmarks.shapes.recipe.text import new_tokenizer
from anyflow_rt.engines.bundle_files import record_file
from anyflow_rt.engines.export.int8 import quantise, quantise_weights
from anyflow_rt.engines.geometry import VideoSize, latent_size, pad_bias, rope_tables, token_grid
from anyflow_rt.engines.manifest import ComponentRecord, FileRecord
from anyflow_rt.engines.registry import open_engine
from anyflow_rt.engines.text_weights import text_weights_of
from anyflow_rt.engines.typed.graph import write_typed_graph
from anyflow_rt.sampling.schedule import uniform_plan

DECODERS = ("vae_decoder_first", "vae_decoder_next")
ENCODERS = ("vae_encoder_first", "vae_encoder_next")
HALVES = {"bf16": onnx.TensorProto.BFLOAT16, "fp16": onnx.TensorProto.FLOAT16}
DENOISER_BOUND = {"bf16": 0.015, "fp16": 0.003}
"""Relative error of the latents, at any number of steps. docs/gpu.md has what was measured over several prompts."""
PROMPT_BOUND = {"bf16": 0.008, "fp16": 1.2e-3}
INT8_BOUND = (0.01, 0.005)
"""The same of 8-bit text weights: of prompt embeddings, and of latents."""
ENCODER_BOUND = {"bf16": 0.01, "fp16": 0.002}
"""Of the latents of given frames."""
FRAMES_BOUND = {"bf16": (3, 52.0), "fp16": (1, 60.0)}
"""Levels of 255 that a pixel may be off by, and dB of PSNR that frames have at least."""


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this module writes; named through a global so that results can be cached."""
    global _folder
    _folder = tmp_path_factory.mktemp("typed")
    return _folder


def typed(component: str, precision: str, cross_keys: str = "collapsed") -> Path:
    path = _folder / f"{component}-{precision}-{cross_keys}.onnx"
    if not path.exists():
        write_typed_graph(component, shapes_graph(component), path, precision, cross_keys)
    return path


def opened(component: str, precision: str, cross_keys: str = "collapsed") -> onnxruntime.InferenceSession:
    """The typed graph, its half types emulated."""
    path = typed(component, precision, cross_keys)
    return session(emulate(path, path.with_name(f"{path.stem}-emulated.onnx")))


def exported(component: str) -> onnxruntime.InferenceSession:
    """The float32 graph as it was exported."""
    return session(shapes_graph(component))


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found.astype(np.float64) - wanted) / np.linalg.norm(wanted))


@cache
def prompt(precision: str) -> tuple[np.ndarray, ...]:
    """Embeddings, and the conditioner's answer to the float32 ones."""
    ids = new_tokenizer()("a large red circle moving right on a black background").input_ids
    tokens = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
    opener = exported if precision == "fp32" else partial(opened, precision=precision)
    embeds = opener("text_encoder").run(None, tokens)[0]
    exact = embeds if precision == "fp32" else prompt("fp32")[0]
    return embeds, *opener("conditioner").run(
        None, {"prompt_embeds": exact, "pad_bias": pad_bias(512, embeds.shape[1], 1)}
    )


def video() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Noise of a small video, and the rotary tables of its size."""
    architecture = shapes_architecture()
    latent = latent_size(architecture, VideoSize(17, 64, 64))
    cos, sin = rope_tables(architecture.transformer, token_grid(architecture.transformer, latent))
    shape = (1, latent.frames, latent.channels, latent.height, latent.width)
    noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return noise, {"rope_cos": cos, "rope_sin": sin}


def sample(denoiser: onnxruntime.InferenceSession, steps: int, cross: dict[str, np.ndarray]) -> np.ndarray:
    state, tables = video()
    embedder = exported("time_embedder")
    frames = np.ones(state.shape[:2], np.float32)
    for t, r in uniform_plan(steps, shapes_architecture().scheduler.shift):
        times = {"t": frames * np.float32(1000 * t), "r": frames * np.float32(1000 * r)}
        modulation, head = embedder.run(None, times)
        inputs = {"modulation": modulation, "head_modulation": head, "interval": frames * np.float32(t - r)}
        (state,) = denoiser.run(None, {"latents": state, **inputs, **cross, **tables})
    return state


@cache
def exact_sample(steps: int) -> np.ndarray:
    return sample(exported("denoiser"), steps, collapsed())


def collapsed() -> dict[str, np.ndarray]:
    _, key, value, bias = prompt("fp32")
    return {"cross_key": key, "cross_value": value, "context_bias": bias}


@pytest.mark.parametrize("precision", HALVES)
def test_jumps_are_near_those_in_float32(precision: str) -> None:
    denoiser = opened("denoiser", precision)
    errors = {steps: relative(sample(denoiser, steps, collapsed()), exact_sample(steps)) for steps in (1, 4, 16)}
    assert all(error < DENOISER_BOUND[precision] for error in errors.values()), errors
    assert min(errors.values()) > 1e-4, f"the emulation rounds nothing: {errors}"


@pytest.mark.parametrize("precision", HALVES)
def test_prompts_are_near_those_in_float32(precision: str) -> None:
    embeds, key, value, bias = prompt(precision)
    wanted = prompt("fp32")
    errors = [relative(found, exact) for found, exact in zip((embeds, key, value), wanted[:3], strict=True)]
    assert max(errors) < PROMPT_BOUND[precision], errors
    assert np.array_equal(bias, wanted[3]), "biases are float32"


def test_text_weights_of_8_bits(tmp_path: Path) -> None:
    """In the graph as integers, and as far off as docs/gpu.md says: prompt embeddings, and latents at 1 and 4 steps."""
    graph = Path(shutil.copytree(shapes_graph("text_encoder").parent, tmp_path / "int8")) / "text_encoder.onnx"
    before = graph.with_name(f"{graph.name}.data").stat().st_size
    done = quantise_weights(graph)
    nodes = onnx.load(graph).graph.node
    kinds = [node.op_type for node in nodes]
    assert kinds.count("DequantizeLinear") == kinds.count("MatMul") == done.products
    assert 0.002 < done.error < 0.012
    assert graph.with_name(f"{graph.name}.data").stat().st_size < 0.6 * before
    assert text_weights_of([ComponentRecord("text_encoder", recorded(graph.parent), 0.0)]) == "int8"
    ids = new_tokenizer()("a large red circle moving right on a black background").input_ids
    tokens = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
    embeds = session(graph).run(None, tokens)[0]
    key, value, bias = exported("conditioner").run(
        None, {"prompt_embeds": embeds, "pad_bias": pad_bias(512, embeds.shape[1], 1)}
    )
    cross = {"cross_key": key, "cross_value": value, "context_bias": bias}
    errors = [relative(embeds, prompt("fp32")[0])]
    errors += [relative(sample(exported("denoiser"), steps, cross), exact_sample(steps)) for steps in (1, 4)]
    print("int8 text weights:", done, errors)
    assert errors[0] < INT8_BOUND[0] and max(errors[1:]) < INT8_BOUND[1], errors
    for name in ("openvino", "onnxruntime"):
        # Left to themselves, both would round the activations to integers too, and be twice as far off.
        with open_engine(name, graph, precision="fp32") as engine:
            assert relative(engine.infer(**tokens)["prompt_embeds"], embeds) < 1e-5, name


def recorded(folder: Path) -> tuple[FileRecord, ...]:
    return tuple(record_file(folder.parent, path) for path in sorted(folder.iterdir()) if path.is_file())


def test_scales_are_exact_in_every_type() -> None:
    matrix = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    matrix[3] = 0
    for axis in (0, 1):
        integers, scale = quantise(matrix, axis)
        wide = integers * np.expand_dims(scale, 1 - axis)
        assert integers.dtype == np.int8 and np.abs(integers.astype(int)).max() <= 127
        assert (np.abs(wide - matrix) <= 0.5001 * np.expand_dims(scale, 1 - axis)).all()
        assert not (scale.view(np.uint32) & 0xFFFF).any(), "bfloat16 holds them"
        assert np.array_equal(scale, scale.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("precision", HALVES)
def test_frames_are_near_those_in_float32(precision: str) -> None:
    noise, _ = video()
    found = streamed("latents", noise, *(opened(name, precision) for name in DECODERS))
    wanted = streamed("latents", noise, *(exported(name) for name in DECODERS))
    difference = np.abs(found.astype(np.int64) - wanted)
    psnr = 10 * np.log10(255**2 / np.mean(difference.astype(np.float64) ** 2))
    levels, least = FRAMES_BOUND[precision]
    assert difference.max() <= levels and psnr > least, (difference.max(), psnr)


@pytest.mark.parametrize("precision", HALVES)
def test_encoded_frames_are_near_those_in_float32(precision: str) -> None:
    frames = np.stack([frames[:9] for _, _, frames in true_clips(2)])
    found = streamed("frames", frames, *(opened(name, precision) for name in ENCODERS))
    wanted = streamed("frames", frames, *(exported(name) for name in ENCODERS))
    errors = [relative(found[:, index], wanted[:, index]) for index in range(found.shape[1])]
    assert max(errors) < ENCODER_BOUND[precision], errors
    assert min(errors) > 1e-5, f"the emulation rounds nothing: {errors}"


def test_pixels_become_numbers_before_anything_moves_them() -> None:
    """And float32 encoders that read them so give the same bits."""
    frames = true_clips(1)[0][2][None, :5]
    found = streamed("frames", frames, *(opened(name, "fp32") for name in ENCODERS))
    assert np.array_equal(found, streamed("frames", frames, *(exported(name) for name in ENCODERS)))
    uint8 = onnx.TensorProto.UINT8
    for name in ENCODERS:
        graph = onnx.shape_inference.infer_shapes(onnx.load(typed(name, "fp32"))).graph
        assert [value.name for value in graph.input if value.type.tensor_type.elem_type == uint8] == ["frames"]
        assert not [value.name for value in graph.value_info if value.type.tensor_type.elem_type == uint8]


def test_the_time_embedder_in_half_precision() -> None:
    """fp16 as sm_75 has it; where the others are bf16 it is float32."""
    frames = np.ones((1, 3), np.float32)
    times = {"t": frames * np.float32(833), "r": frames * np.float32(625)}
    wanted = exported("time_embedder").run(None, times)
    errors = [relative(*pair) for pair in zip(opened("time_embedder", "fp16").run(None, times), wanted, strict=True)]
    assert max(errors) < 1e-3, errors
    assert all(map(np.array_equal, opened("time_embedder", "bf16").run(None, times), wanted))


def streamed(
    port: str, values: np.ndarray, first: onnxruntime.InferenceSession, following: onnxruntime.InferenceSession
) -> np.ndarray:
    """``values`` through both graphs of a decoder or an encoder: the first frame, then all others."""
    begun, *caches = first.run(None, {port: values[:, :1]})
    names = [value.name for value in following.get_inputs()][1:]
    rest = following.run(None, {port: values[:, 1:], **dict(zip(names, caches, strict=True))})[0]
    return np.concatenate([begun, rest], axis=1)


@pytest.mark.parametrize("precision", HALVES)
def test_a_jump_over_no_interval_keeps_every_bit(precision: str) -> None:
    noise, tables = video()
    frames = np.ones(noise.shape[:2], np.float32)
    modulation, head = exported("time_embedder").run(None, {"t": frames * 0, "r": frames * 0})
    inputs = {"modulation": modulation, "head_modulation": head, "interval": frames * 0}
    (kept,) = opened("denoiser", precision).run(None, {"latents": noise, **inputs, **collapsed(), **tables})
    assert np.array_equal(kept, noise)


@pytest.mark.parametrize("precision", HALVES)
def test_types_of_the_denoiser(precision: str) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(typed("denoiser", precision)), strict_mode=True)
    graph, half, full = model.graph, HALVES[precision], onnx.TensorProto.FLOAT
    read = {name for node in graph.node for name in node.input}
    assert {value.name for value in graph.initializer} <= read, "float32 weights are not kept beside those in half"
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    types |= {value.name: value.data_type for value in graph.initializer}
    assert {name: types[name] for name in ("latents", "z_r", "modulation", "interval", "context_bias", "rope_cos")} == (
        dict.fromkeys(("latents", "z_r", "modulation", "interval", "context_bias", "rope_cos"), full)
    )
    assert types["cross_key"] == types["cross_value"] == half
    layers = shapes_architecture().transformer.num_layers
    seen = {"Attention": 0, "LayerNormalization": 0, "RMSNormalization": 0}
    for node in graph.node:
        if node.op_type in seen:
            seen[node.op_type] += 1
            wanted = half if node.op_type == "Attention" else full
            assert {types[name] for name in (*node.input, *node.output)} == {wanted}, node.name
    assert seen == {"Attention": 2 * layers, "LayerNormalization": 3 * layers + 1, "RMSNormalization": 3 * layers}
    products = [types[node.output[0]] for node in graph.node if node.op_type == "MatMul"]
    last = full if precision == "bf16" else half
    assert products == [half] * (6 * layers) + [last]


def test_attention_to_all_keys_is_the_same_mathematics() -> None:
    embeds = prompt("fp32")[0]
    padded = np.pad(embeds, ((0, 0), (0, 512 - embeds.shape[1]), (0, 0)))
    conditioner = opened("conditioner", "fp32", "all")
    assert [value.name for value in conditioner.get_inputs()] == ["prompt_embeds"]
    key, value = conditioner.run(None, {"prompt_embeds": padded})
    assert key.shape[3] == 512
    denoiser = opened("denoiser", "fp32", "all")
    found = sample(denoiser, 2, {"cross_key": key, "cross_value": value})
    assert relative(found, exact_sample(2)) < 1e-5
