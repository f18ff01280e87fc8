"""The Triton engine: whole jumps against diffusers, launches against the plan, and the contract of every engine."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.engine_contract import TOLERANCE, EngineContract, Subject, distance
from support.kernels import DEVICE, KERNEL
from support.packed import PackedCheckpoint, Question, packed_checkpoint, question
from torch.utils._python_dispatch import TorchDispatchMode

from anyflow_rt.engines.engine import Engine
from anyflow_rt.engines.registry import open_engine
from anyflow_rt.engines.torch_pack import load_graph, read_packed
from anyflow_rt.engines.triton_modules import TritonDenoiser, expected_copies, expected_launches
from anyflow_rt.errors import EngineError, MissingPackageError, UsageError
from anyflow_rt.kernels.package import INTERPRETED, triton

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


@pytest.fixture
def subject(small: PackedCheckpoint, asked: Question) -> Subject:
    """The smallest checkpoint's jump."""
    return Subject("triton", "fp32", small.component("denoiser", "fp32"), asked.arrays, "z_r", asked.answer)


class TestContract(EngineContract):
    """That of all engines."""


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
    """Counts the operators that run: ours, and those of PyTorch that compute or copy something.

    Views are left out: they launch nothing. So is what only makes a tensor without writing it.
    """

    VIEWS = ("view", "_unsafe_view", "permute", "transpose", "t", "select", "slice", "unsqueeze", "alias", "detach",
             "expand", "unbind", "lift_fresh", "empty")  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.ours: Counter[str] = Counter()
        self.theirs: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        space, name = function.name().split(".")[0].split("::")
        if space == "anyflow":
            self.ours[name] += 1
        elif name not in self.VIEWS:
            self.theirs[name] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("configuration", "precision"), [("base", "fp32"), ("no_cross_norm", "fp32"), ("one_head_one_layer", "bf16")]
)
def test_launches_are_those_of_the_plan(configuration: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each operator as often as planned, one launch each; of PyTorch products, the activation and planned copies."""
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
    path, device = packed.component("denoiser", precision), torch.device(DEVICE)
    denoiser = TritonDenoiser(load_graph(read_packed(path), path, device).module)
    inputs = {name: torch.tensor(array, device=device) for name, array in asked.arrays.items()}
    for name in ("cross_key", "cross_value"):
        inputs[name] = inputs[name].to(denoiser.dtype)
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
    computed = {"addmm": 2 + 6 * config.num_layers, "gelu": config.num_layers}
    assert calls.theirs == computed | expected_copies(denoiser.dtype)


@pytest.mark.parametrize("name", ["triton", "sdpa"])
def test_attention_is_chosen_by_name(
    name: str, small: PackedCheckpoint, asked: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYFLOW_RT_ATTENTION", name)
    with open_engine("triton", small.component("denoiser", "fp32"), precision="fp32") as engine, Calls() as calls:
        assert_answered(engine.infer(**asked.arrays)["z_r"], asked, "fp32")
    # On a GPU the first call goes through the denoiser twice: it runs it, then captures it.
    passes = 1 if INTERPRETED else 2
    assert calls.ours["attention"] == (2 * passes if name == "triton" else 0)
    monkeypatch.setenv("ANYFLOW_RT_ATTENTION", "slow")
    with pytest.raises(UsageError, match="unknown attention implementation 'slow'; there are triton, triton-int8, sdp"):
        open_engine("triton", small.component("denoiser", "fp32"), precision="fp32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cross_key": lambda x: x.astype(np.float16)}, "cross_key is float16; float32 is needed"),
        (
            {"rope_cos": lambda x: x[:-1], "rope_sin": lambda x: x[:-1]},
            r"rope_cos has shape \(5, 12\); accepted: \(6, ",
        ),
        ({"latents": lambda x: x[..., :-1]}, "failed on latents"),
    ],
)
def test_wrong_arrays(engine: Engine, asked: Question, change: dict[str, Any], message: str) -> None:
    """What only an op can know is refused by the op: never run."""
    arrays = {**asked.arrays, **{name: value(asked.arrays[name]) for name, value in change.items()}}
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
    generator = np.random.default_rng(0)
    latents = generator.standard_normal((1, 1, 16, 2, 3), dtype=np.float32)
    pixels = generator.integers(0, 256, (1, 1, 16, 24, 3), dtype=np.uint8)
    given: dict[str, dict[str, Any]] = {
        "text_encoder": {"input_ids": ids, "attention_mask": np.ones_like(ids)},
        "vae_decoder_first": {"latents": latents},
        "vae_encoder_first": {"frames": pixels},
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


@pytest.mark.parametrize("error", ["CompilationError", "OutOfResources", "RuntimeError"])
def test_what_a_kernel_cannot_do_is_an_engine_error_with_the_mend(
    error: str, engine: Engine, asked: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = {
        "CompilationError": lambda: triton.CompilationError("x = 1", None, "no such instruction"),
        "OutOfResources": lambda: triton.OutOfResources(131072, 101376, "shared memory"),
        "RuntimeError": lambda: RuntimeError("out of\nmemory"),
    }

    def fail(*arguments: Any) -> None:
        raise raised[error]()

    monkeypatch.setattr(engine, "_run", fail)
    message = rf"Triton \S+ could not make or run a kernel \({error}: .*ANYFLOW_RT_ATTENTION=sdpa if it is attent"
    if error == "RuntimeError":
        message = "failed on latents .*: out of memory"
    with pytest.raises(EngineError, match=message):
        engine.infer(**asked.arrays)


def test_float32_is_float32(engine: Engine, asked: Question, monkeypatch: pytest.MonkeyPatch) -> None:
    """While an engine runs, cuBLAS and cuDNN shorten nothing to TF32; before and after it is as the process has it."""
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    before, seen = [switch.fp32_precision for switch in switches], []
    run = engine._run

    def look(tensors: dict[str, torch.Tensor]) -> Any:
        seen.extend(switch.fp32_precision for switch in switches)
        return run(tensors)

    monkeypatch.setattr(engine, "_run", look)
    engine.infer(**asked.arrays)
    assert seen == ["ieee"] * 3 and before[1:] == ["tf32", "tf32"]
    assert [switch.fp32_precision for switch in switches] == before


def test_damaged_kernels_of_a_bundle_name_the_mend(
    small: PackedCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "denoiser.safetensors"
    shutil.copy(small.component("denoiser", "fp32"), path)
    KERNEL.save(tmp_path / "kernels")
    (damaged,) = (tmp_path / "kernels").glob("*.json")
    damaged.write_text("{")
    with open_engine("triton", path, precision="fp32") as opened:
        monkeypatch.setattr("anyflow_rt.kernels.launch.target_of", lambda tensor: KERNEL.target)
        with pytest.raises(EngineError, match=r"cannot be read as a compiled kernel .*; .*make it again"):
            opened._load_pack()


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
