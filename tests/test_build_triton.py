"""``build --target sm_XX --engine triton`` without a GPU: what goes into the bundle, and that a run can open it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import RandomBundle, random_bundle

from anyflow_rt.build import build
from anyflow_rt.build_estimate import TENSORRT_BASE, TENSORRT_LENGTH, WantedEngine, estimate
from anyflow_rt.build_plan import BuildOptions, plan_build, preview
from anyflow_rt.engines.architecture import parameter_estimate
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.checkpoint import load_checkpoint
from anyflow_rt.engines.export import COMPONENT_NAMES
from anyflow_rt.engines.gpu import present_target
from anyflow_rt.engines.onnx_signature import read_signature
from anyflow_rt.engines.tensorrt.settings import PROMPT_LENGTHS
from anyflow_rt.engines.torch_pack import read_packed, signature
from anyflow_rt.errors import MissingPackageError, UsageError
from anyflow_rt.runtime import Runtime
from anyflow_rt.shipped import CAUSAL_CHECKPOINT

pytest.importorskip("triton")

PROMPT, STEPS = "a red circle", 2
VIDEO = {"num_frames": 5, "height": 32, "width": 32}


def anyflow_rt(*arguments: str, interpreted: bool) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: whether kernels are interpreted is decided when they are imported."""
    environment = {**os.environ, "TRITON_INTERPRET": str(int(interpreted))}
    command = [sys.executable, "-P", "-m", "anyflow_rt", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def values(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def options(made: RandomBundle, **changes: Any) -> BuildOptions:
    return BuildOptions(checkpoint=str(made.checkpoint), out=made.path, **changes)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[RandomBundle, dict[str, Any]]:
    """A bundle with an engine for sm_89 beside its graphs, and what the command said."""
    shared = random_bundle("one_head_one_layer")
    made = RandomBundle(
        Path(shutil.copytree(shared.path, tmp_path_factory.mktemp("triton") / "bundle")), shared.checkpoint
    )
    command = ("build", "--ckpt", str(made.checkpoint), "--out", str(made.path), "--target", "sm_89", "--json")
    return made, values(anyflow_rt(*command, "--engine", "triton", interpreted=False))


def test_a_causal_checkpoints_blocks_are_estimated_once() -> None:
    """Of TensorRT's engines denoiser and cache writer each have them."""
    causal = load_checkpoint(CAUSAL_CHECKPOINT).architecture
    once, twice = (
        estimate(causal, exports=False, engines=[WantedEngine("sm_89", engine, "bf16")]).disk
        for engine in ("triton", "tensorrt")
    )
    beside = TENSORRT_BASE + TENSORRT_LENGTH * len(PROMPT_LENGTHS)
    assert twice - once == 2 * parameter_estimate(causal)["transformer"] + beside


def test_weights_kernels_and_metadata_are_in_the_manifest(built: tuple[RandomBundle, dict[str, Any]]) -> None:
    made, said = built
    assert (said["changed"], said["exported"], said["compiled"]) == (True, {}, ["sm_89 triton bf16"])
    bundle = Bundle.open(made.path)
    bundle.verify()
    (record,) = bundle.manifest.engines
    assert record.key == ("sm_89", "triton", "bf16", "dynamic")
    assert set(record.packages) == {"torch", "triton"}
    folder = made.path / "engines/sm_89/triton-bf16-dynamic"
    assert all(file.path.startswith("engines/sm_89/triton-bf16-dynamic/") for file in record.files)
    for name in COMPONENT_NAMES:
        assert bundle.engine_path(record, name) == folder / f"{name}.safetensors"
    kernels = sorted((folder / "kernels").glob("*.json"))
    metadata = [json.loads(path.read_text()) for path in kernels]
    ops = [each["op"] for each in metadata]
    # Four joins of a model of one layer, two norms of queries; attention to itself and, with a bias, to the prompt.
    assert ops == ["adaptive_norm"] * 4 + ["attention"] * 2 + ["flow_map_update"] + ["qk_norm_rope"] * 2
    for path, each in zip(kernels, metadata, strict=True):
        assert each["target"] == 89 and each["grid"] and each["parameters"]
        assert path.with_suffix(".cubin").read_bytes().startswith(b"\x7fELF")
    assert all(path.stat().st_mode & 0o044 for path in folder.rglob("*")), "as readable as the bundle"


def test_signatures_are_those_of_the_graphs(built: tuple[RandomBundle, dict[str, Any]]) -> None:
    bundle = Bundle.open(built[0].path)
    (record,) = bundle.manifest.engines
    for name in COMPONENT_NAMES:
        found = signature(read_packed(bundle.engine_path(record, name)).without_storage())
        wanted = read_signature(bundle.component_path(name))
        assert [list(ports.items()) for ports in found] == [list(ports.items()) for ports in wanted], name


def test_without_triton_the_pip_line_is_named(
    built: tuple[RandomBundle, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(MissingPackageError, match=r"'triton', .* pip install 'anyflow-rt\[triton\]'"):
        build(options(built[0], targets=("sm_90",), engine="triton"))


def test_the_kernels_are_those_that_a_jump_launches(built: tuple[RandomBundle, dict[str, Any]]) -> None:
    """Found again by another process, interpreted or not: the keys are of source, types and constants."""
    made, _ = built
    code = (
        "import sys; from pathlib import Path; from anyflow_rt.engines.bundle import Bundle; "
        "from anyflow_rt.engines.triton_build import recorded_launches; "
        "from anyflow_rt.kernels.packed import KernelPack, entry_arguments; "
        "pack = KernelPack(Path(sys.argv[1]) / 'engines/sm_89/triton-bf16-dynamic/kernels', 89); "
        "launches = recorded_launches(Bundle.open(sys.argv[1]), 89, 'bf16'); found = [pack.find(x) for x in launches]; "
        "assert len(launches) == 9 and None not in found and len(set(x.key for x in found)) == len(pack.kernels); "
        "given = [entry_arguments(k, x.arguments) for k, x in zip(found, launches)]; "
        "assert [len(x) for x in given] == [len(k.parameters) + 2 for k in found]; "
        "other = recorded_launches(Bundle.open(sys.argv[1]), 89, 'fp32'); "
        "assert not any(pack.find(x) for x in other); print('found')"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-P", "-c", code, str(made.path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.stdout.strip() == "found", done.stderr


def test_a_run_opens_what_was_built(built: tuple[RandomBundle, dict[str, Any]], tmp_path: Path) -> None:
    """Interpreted on a CPU, every component from the packed files: the same video as the golden engine's."""
    made, _ = built
    output = tmp_path / "out.npy"
    size = [part for name, value in VIDEO.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    command = ["run", "--bundle", str(made.path), "--prompt", PROMPT, "--output", str(output), "--json", *size]
    said = values(anyflow_rt(*command, "--steps", str(STEPS), "--engine", "triton", interpreted=True))
    assert (said["engine"], said["precision"]) == ("triton", "bf16")
    with Runtime(Bundle.open(made.path), engine="onnxruntime") as runtime:
        wanted = runtime.generate(PROMPT, steps=STEPS, **VIDEO).frames
    assert wanted is not None
    difference = np.load(output).astype(np.float64) - wanted[0]
    assert 10 * np.log10(255**2 / np.mean(difference**2)) > 40


@pytest.mark.skipif(present_target() is not None, reason="needs a machine without a GPU")
def test_without_a_gpu_a_run_says_what_to_do(built: tuple[RandomBundle, dict[str, Any]], tmp_path: Path) -> None:
    made, _ = built
    command = ("run", "--bundle", str(made.path), "--prompt", PROMPT, "--output", str(tmp_path / "out.npy"))
    done = anyflow_rt(*command, "--engine", "triton", interpreted=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "needs an NVIDIA GPU and this machine shows none; leave out --engine triton" in done.stderr


def test_nothing_is_made_twice(built: tuple[RandomBundle, dict[str, Any]]) -> None:
    made, _ = built
    again = preview(options(made, targets=("sm_89",), engine="triton"))
    assert not again.changes
    more = preview(options(made, targets=("cpu", "sm_89", "sm_90"), engine="triton"))
    assert more.engines[0].startswith("cpu ") and more.engines[1:] == ("sm_90 triton bf16",)


def test_what_is_wanted_for_which_target(built: tuple[RandomBundle, dict[str, Any]]) -> None:
    made, _ = built

    def wanted(*targets: str, **changes: Any) -> list[str]:
        return [str(each) for each in plan_build(options(made, targets=targets, **changes)).wanted]

    assert wanted("sm_90", engine="triton", precision="fp32") == ["sm_90 triton fp32"]
    assert wanted("cpu", "sm_90", engine="onnxruntime", precision="fp32") == [
        "cpu onnxruntime fp32",
        "sm_90 triton fp32",
    ]
    for targets, changes, message in (
        (
            ("cpu",),
            {"engine": "triton"},
            "the triton engine is for a GPU: give --target sm_89, say; the targets are cpu",
        ),
        (("sm_89",), {"engine": "onnxruntime"}, "the onnxruntime engine is for a CPU: give --target cpu"),
        (("sm_75",), {"engine": "triton"}, "cannot be built for target 'sm_75'; .*; triton has sm_80, sm_86"),
        (("sm_89",), {"precision": "int8", "engine": "triton"}, "no precision 'int8'; it has bf16, fp32"),
    ):
        with pytest.raises(UsageError, match=message):
            wanted(*targets, **changes)
