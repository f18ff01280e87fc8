"""The Triton engine: whole jumps against diffusers, launches against the plan, and the contract of every engine."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.kernels import DEVICE
from support.packed import PackedCheckpoint, Question, packed_checkpoint, question
from torch.utils._python_dispatch import TorchDispatchMode

from anyflow_rt.engines.engine import Engine
from anyflow_rt.engines.registry import open_engine
from anyflow_rt.engines.torch_pack import load_graph, read_packed
from anyflow_rt.engines.triton_modules import TritonDenoiser, expected_launches
from anyflow_rt.errors import EngineError, MissingPackageError, UsageError
from anyflow_rt.kernels.package import INTERPRETED

TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}
"""||a - b|| / ||b|| of what a jump adds, against diffusers in float32; bf16 has 8 bits of precision."""

JUMPS = [
    ("base", "fp32", 2),
    ("no_cross_norm", "fp32", 2),
    ("interval_conditioned", "fp32", 2),
    ("patched_vae", "fp32", 2),
    ("three_scales", "bf16", 1),
]
"""Configuration, precision, videos. Two layers with norm2; heads of 20 without one; three heads of 12, fed the
interval; patches of one pixel; heads of 22, where a single video's second layer has its keys at an odd address."""


@pytest.fixture(scope="module")
def small() -> PackedCheckpoint:
    """One head, one layer."""
    return packed_checkpoint("one_head_one_layer")


@pytest.fixture(scope="module")
def asked(small: PackedCheckpoint) -> Question:
    return question(small, 1, (2, 1, 3))


@pytest.fixture
def engine(small: PackedCheckpoint):
    with open_engine("triton", small.component("denoiser", "fp32"), precision="fp32") as opened:
        yield opened


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b))


def assert_answered(result: np.ndarray, asked: Question, precision: str) -> None:
    start = asked.arrays["latents"]
    assert result.dtype == np.float32
    assert distance(result - start, asked.answer - start) < TOLERANCE[precision]


@pytest.mark.parametrize(("configuration", "precision", "videos"), JUMPS)
def test_a_jump_is_that_of_diffusers(configuration: str, precision: str, videos: int) -> None:
    packed = packed_checkpoint(configuration)
    asked = question(packed, videos, (2, 1, 3))
    with open_engine("triton", packed.component("denoiser", precision), precision=precision) as engine:
        assert_answered(engine.infer(**asked.arrays)["z_r"], asked, precision)


class Calls(TorchDispatchMode):
    """Counts the operators that run, and lists those of PyTorch that compute something."""

    MOVES = ("view", "_unsafe_view", "permute", "transpose", "t", "select", "slice", "unsqueeze", "alias", "detach",
             "clone", "_to_copy", "expand", "unbind", "lift_fresh", "empty", "copy_")  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.ours: Counter[str] = Counter()
        self.theirs: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        space, name = function.name().split(".")[0].split("::")
        if space == "anyflow":
            self.ours[name] += 1
        elif name not in self.MOVES:
            self.theirs[name] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("configuration", ["base", "no_cross_norm"])
def test_launches_are_those_of_the_plan(configuration: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each operator as often as planned, one launch each, and of PyTorch nothing but products and the activation."""
    from anyflow_rt.kernels import launch

    packed = packed_checkpoint(configuration)
    config = packed.checkpoint.architecture.transformer
    launched: Counter[str] = Counter()
    run = launch.Launch.run

    def counted(self: launch.Launch) -> None:
        launched[self.kernel.op] += 1
        run(self)

    monkeypatch.setattr(launch.Launch, "run", counted)
    asked = question(packed, 1, (2, 1, 2))
    path, device = packed.component("denoiser", "fp32"), torch.device(DEVICE)
    denoiser = TritonDenoiser(load_graph(read_packed(path), path, device).module)
    inputs = {name: torch.tensor(array, device=device) for name, array in asked.arrays.items()}
    with torch.no_grad(), Calls() as calls:
        denoiser(**inputs)
    planned = expected_launches(config.num_layers, config.cross_attn_norm)
    assert calls.ours == planned
    norms = sum(planned.get(name, 0) for name in ("adaptive_norm", "join", "join_norm"))
    assert launched == {
        "adaptive_norm": norms,
        "qk_norm_rope": planned["qk_norm_rope"] + planned["query_norm"],
        "attention": planned["attention"],
        "flow_map_update": 1,
    }
    assert sum(planned.values()) == 2 + 7 * config.num_layers
    assert calls.theirs == {"addmm": 2 + 6 * config.num_layers, "gelu": config.num_layers}


@pytest.mark.parametrize("name", ["triton", "sdpa"])
def test_attention_is_chosen_by_name(
    name: str, small: PackedCheckpoint, asked: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYFLOW_RT_ATTENTION", name)
    with open_engine("triton", small.component("denoiser", "fp32"), precision="fp32") as engine, Calls() as calls:
        assert_answered(engine.infer(**asked.arrays)["z_r"], asked, "fp32")
    assert calls.ours["attention"] == (2 if name == "triton" else 0)
    monkeypatch.setenv("ANYFLOW_RT_ATTENTION", "slow")
    with pytest.raises(UsageError, match="unknown attention implementation 'slow'; there are triton, sdpa, flash-attn"):
        open_engine("triton", small.component("denoiser", "fp32"), precision="fp32")


def test_interval_zero_keeps_every_bit(engine: Engine, asked: Question) -> None:
    start = latents = asked.arrays["latents"]
    assert (asked.arrays["interval"] == 0).tolist() == [[True, False]]
    for _ in range(2):
        latents = engine.infer(**{**asked.arrays, "latents": latents})["z_r"]
    assert latents[:, 0].tobytes() == start[:, 0].tobytes()
    assert (latents[:, 1] != start[:, 1]).mean() > 0.99


def test_awkward_inputs_are_read_and_left_alone(engine: Engine, asked: Question) -> None:
    """Strided, broadcast, misaligned and read-only arrays are inputs like any other."""
    wanted = engine.infer(**asked.arrays)["z_r"]
    awkward = dict(asked.arrays)
    padded = np.zeros(awkward["latents"].size + 1, np.float32)
    padded[1:] = awkward["latents"].ravel()
    awkward["latents"] = padded[1:].reshape(awkward["latents"].shape)
    awkward["cross_key"] = np.asfortranarray(awkward["cross_key"])
    awkward["rope_cos"] = np.broadcast_to(awkward["rope_cos"][None], (1, *awkward["rope_cos"].shape))[0]
    awkward["interval"].flags.writeable = False
    before = {name: array.copy() for name, array in awkward.items()}
    np.testing.assert_array_equal(engine.infer(**awkward)["z_r"], wanted)
    for name, array in awkward.items():
        np.testing.assert_array_equal(array, before[name])


def test_outputs_belong_to_the_caller(small: PackedCheckpoint, asked: Question) -> None:
    other = {**asked.arrays, "latents": asked.arrays["latents"] + 1}
    with open_engine("triton", small.component("denoiser", "fp32"), precision="fp32") as engine:
        first = engine.infer(**asked.arrays)["z_r"]
        kept = first.copy()
        engine.infer(**other)
    np.testing.assert_array_equal(first, kept)
    with pytest.raises(EngineError, match=r"after close\(\)"):
        engine.infer(**asked.arrays)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interval": None}, "missing: interval; its inputs are latents, modulation"),
        ({"steps": 4}, "unknown: steps"),
        ({"latents": [1.0]}, "latents is a list; an array of float32"),
        ({"latents": lambda x: x.astype(float)}, "latents is float64; float32 is needed"),
        ({"cross_key": lambda x: x.astype(np.float16)}, "cross_key is float16; float32 is needed"),
        ({"latents": lambda x: x[0]}, "latents has 4 dimensions .*; 5 are needed"),
        ({"latents": lambda x: x[:, :, :3]}, "size 3 on axis 2; 16 is needed"),
        ({"interval": lambda x: x[:, :1]}, r"interval has size 1 on axis 1 \(F\); latents has 2"),
        (
            {"rope_cos": lambda x: x[:-1], "rope_sin": lambda x: x[:-1]},
            r"rope_cos has shape \(5, 12\); accepted: \(6, ",
        ),
        ({"latents": lambda x: x[..., :-1]}, "failed on latents"),
    ],
)
def test_wrong_arrays(engine: Engine, asked: Question, change: dict[str, Any], message: str) -> None:
    """Refused by the engine or, where only an op can know, by the op: never run."""
    arrays = dict(asked.arrays)
    for name, value in change.items():
        if value is None:
            del arrays[name]
        else:
            arrays[name] = value(arrays[name]) if callable(value) else value
    with pytest.raises(EngineError, match=message):
        engine.infer(**arrays)


def test_what_passes_between_components_keeps_its_type(small: PackedCheckpoint, asked: Question) -> None:
    """At bf16, keys and values are taken and given as bits of bfloat16 where the runtime says so."""
    options = {"precision": "bf16", "compute_type": ("cross_key", "cross_value", "*cache_*")}
    embeds = np.random.default_rng(0).standard_normal((1, 5, 24), dtype=np.float32)
    inputs = {"prompt_embeds": embeds, "pad_bias": np.zeros((1, 2), np.float32)}
    with open_engine("triton", small.component("conditioner", "bf16"), **options) as conditioner:
        keys = conditioner.infer(**inputs)
    with open_engine("triton", small.component("conditioner", "fp32"), precision="fp32") as conditioner:
        wanted = conditioner.infer(**inputs)
    assert keys["context_bias"].dtype == np.float32
    given = torch.as_tensor(keys["cross_key"]).view(torch.bfloat16).float().cpu().numpy()
    assert distance(given, wanted["cross_key"]) < TOLERANCE["bf16"]
    with open_engine("triton", small.component("denoiser", "bf16"), **options) as denoiser:
        assert denoiser.inputs["cross_value"].dtype == np.uint16
        found = denoiser.infer(**{**asked.arrays, **keys})["z_r"]
        tensor = torch.as_tensor(keys["cross_key"]).view(torch.bfloat16)
        again = denoiser.infer(**{**asked.arrays, **keys, "cross_key": tensor})["z_r"]
    np.testing.assert_array_equal(found, again)


def test_the_text_encoder_and_the_vae_run_beside_it(small: PackedCheckpoint) -> None:
    """The other components against themselves in float32: the modules are tested where they are exported."""
    ids = np.array([[3, 5, 7, 1]])
    latents = np.random.default_rng(0).standard_normal((1, 1, 16, 2, 3), dtype=np.float32)
    given: dict[str, dict[str, Any]] = {
        "text_encoder": {"input_ids": ids, "attention_mask": np.ones_like(ids)},
        "vae_decoder_first": {"latents": latents},
    }
    results: dict[str, dict[str, Any]] = {}
    for precision in ("fp32", "bf16"):
        for name, arrays in given.items():
            with open_engine("triton", small.component(name, precision), precision=precision) as engine:
                results[precision] = results.get(precision, {}) | engine.infer(**arrays)
    assert results["bf16"]["frames"].dtype == np.uint8
    for name, wanted in results["fp32"].items():
        assert results["bf16"][name].shape == wanted.shape
        assert np.abs(wanted).max() == 0 or distance(results["bf16"][name], wanted.astype(np.float64)) < 2e-2, name


@pytest.mark.parametrize("content", [b"", b"no weights", "half", "other"])
def test_damaged_files(content: bytes | str, small: PackedCheckpoint, tmp_path: Path) -> None:
    path = tmp_path / "denoiser.safetensors"
    whole = small.component("denoiser", "fp32").read_bytes()
    if content == "other":
        import safetensors.torch

        safetensors.torch.save_file({"x": torch.zeros(2)}, path)
    else:
        path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(EngineError, match=r"denoiser\.safetensors is no packed component .*make it again"):
        open_engine("triton", path, precision="fp32")
    with pytest.raises(EngineError, match="no model at"):
        open_engine("triton", tmp_path / "none.safetensors", precision="fp32")


def test_weights_of_another_precision(small: PackedCheckpoint) -> None:
    with pytest.raises(EngineError, match="holds fp32 weights and bf16 was asked for; open it at fp32"):
        open_engine("triton", small.component("denoiser", "fp32"), precision="bf16")


@pytest.mark.skipif(not INTERPRETED or torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_the_mend_is_said(small: PackedCheckpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyflow_rt.kernels.package.INTERPRETED", False)
    with pytest.raises(EngineError, match="PyTorch sees no NVIDIA GPU: run on a machine with one"):
        open_engine("triton", small.component("denoiser", "fp32"), precision="fp32")


def test_without_a_package_the_pip_line_is_named(small: PackedCheckpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'anyflow-rt\[triton\]'"):
        open_engine("triton", small.component("denoiser", "fp32"), precision="fp32")
