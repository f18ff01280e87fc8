"""``build --target sm_XX`` with TensorRT: into the bundle, onto the screen, and refused in one sentence."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.bundles import RandomBundle, random_bundle
from support.commands import fails

from anyflow_rt.admission import admit
from anyflow_rt.build_plan import BuildOptions, plan_build
from anyflow_rt.choice import Call, choose
from anyflow_rt.cli.main import main
from anyflow_rt.engines.builders import builder_for, default_builder
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.geometry import LatentSize, VideoSize
from anyflow_rt.engines.manifest import MANIFEST_NAME
from anyflow_rt.engines.stages import ENCODE, RUN_COMPONENTS
from anyflow_rt.engines.tensorrt import package, runner
from anyflow_rt.engines.tensorrt.limits import check_call
from anyflow_rt.engines.tensorrt.mending import engine_mend
from anyflow_rt.engines.tensorrt.package import ENTERPRISE, RTX, import_package, require_present
from anyflow_rt.engines.tensorrt.record import RECORD, SCHEMA, BuiltComponent, EngineFacts, read_facts
from anyflow_rt.engines.tensorrt.requirements import check_requirements, distribution_of
from anyflow_rt.engines.tensorrt.settings import TensorRtSettings
from anyflow_rt.engines.text_weights import text_weights_of
from anyflow_rt.errors import EngineError, MissingPackageError, UsageError
from anyflow_rt.loading import load
from anyflow_rt.prompt import PromptTokenizer
from anyflow_rt.runtime import Runtime

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec(RTX) is None,
    reason="needs the package tensorrt_rtx: pip install 'anyflow-rt[tensorrt-rtx]'",
)
PART = BuiltComponent("bf16", 1, 0, {}, 9, 99, None, None, 9, 0.1, 99, ({"usual": {"latents": (1, 3, 16, 8, 8)}},))
FACTS = EngineFacts(
    RTX, "1.7.1.116", "sm_89", "bf16", asdict(TensorRtSettings()), dict.fromkeys(RUN_COMPONENTS, asdict(PART))
)


@pytest.fixture
def made(tmp_path: Path) -> RandomBundle:
    shared = random_bundle("one_head_one_layer")
    return RandomBundle(Path(shutil.copytree(shared.path, tmp_path / "bundle")), shared.checkpoint)


def command(made: RandomBundle, *more: str) -> list[str]:
    return ["build", "--ckpt", str(made.checkpoint), "--out", str(made.path), "--prompt-lengths", "32", *more]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@needs_rtx
def test_several_targets_share_one_export(made: RandomBundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command(made, "--target", "sm_89,sm_75", "--json")]) == 0
    out, told = capsys.readouterr()
    said = json.loads(out)
    assert (said["exported"], said["compiled"]) == ({}, ["sm_89 tensorrt_rtx bf16", "sm_75 tensorrt_rtx fp16"])
    assert all(seconds > 0 for seconds in said["compile_seconds"].values())
    assert "this takes up to" in told, "what it takes is said before"
    assert "TensorRT for RTX makes the engine: it builds for sm_89 on any machine" in told
    assert len(re.findall(r"^denoiser for sm_\d\d: ", told, re.MULTILINE)) == 2
    bundle = Bundle.open(made.path)
    bundle.verify()
    first, second = sorted(bundle.manifest.engines, key=lambda engine: engine.target)
    assert first.key == ("sm_75", RTX, "fp16", "9x64x64") and second.key == ("sm_89", RTX, "bf16", "9x64x64")
    assert first.packages == {RTX: import_package(RTX).__version__}
    folder = made.path / "engines/sm_89/tensorrt_rtx-bf16-9x64x64"
    assert {path.name for path in folder.iterdir()} == {
        RECORD,
        *(f"{name}.engine" for name in (*RUN_COMPONENTS, *ENCODE)),
    }
    facts = read_facts(folder)
    denoiser = facts.components["denoiser"]
    assert (denoiser["fused"], denoiser["decomposed"]) == (0, 2), "one head: no kernel has it, and the record says so"
    assert denoiser["profiles"][0]["usual"]["latents"] == [1, 3, 16, 8, 8]

    asked = {"engine": RTX, "precision": "bf16", "output": "frames", "record": second}
    assert admit(bundle, "a", **asked).videos == 1
    assert admit(bundle, "a", **asked, image=np.zeros((64, 64, 3), np.uint8)).context.shape == (1, 64, 64, 3)
    told = " ".join(["a circle over"] * 60)
    with pytest.raises(UsageError, match=r"longest prompt has \d+ tokens and the engine .* takes up to 32; shorten it"):
        admit(bundle, told, tokenizer=PromptTokenizer(bundle.tokenizer_path), **asked)
    for options, words in (
        ({"num_videos": 2}, "takes 1; ask for fewer, or make it with .* --batch 2 --prompt-lengths 32 --force$"),
        ({"num_frames": 5}, "makes 9 frames of 64x64 pixels .* and 5 frames of 64x64 pixels .*--num-frames 5"),
    ):
        with pytest.raises(UsageError, match=words):
            admit(bundle, "a", **asked, **options)

    before = contents(made.path)
    assert main([*command(made, "--target", "sm_89", "--json")]) == 0
    assert not json.loads(capsys.readouterr().out)["changed"] and contents(made.path) == before
    assert main(["inspect", str(made.path), "--json"]) == 0
    shown = capsys.readouterr()
    assert "attention: 0 fused, 2 not" in shown.err and "MB of weights, " in shown.err and " MB to work in" in shown.err
    assert set(json.loads(shown.out)["engines"][0]["components"]) == {*RUN_COMPONENTS, *ENCODE}

    # What engines need of a machine is asked before any of them is opened.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anyflow_rt.choice.present_target", lambda: "sm_89")
        patch.setattr("anyflow_rt.engines.tensorrt.requirements.present_target", lambda: "sm_89")
        patch.setattr("anyflow_rt.engines.tensorrt.requirements.driver_version", lambda: "470.1")
        patch.setattr("anyflow_rt.engines.registry.open_engine", lambda *_, **__: pytest.fail("an engine is opened"))
        with pytest.raises(EngineError, match=r"driver is 470.1 and .* needs 5[38][05] or later"):
            Runtime(bundle)
        with pytest.raises(UsageError, match="height 65 is not a multiple of 16"):
            load(made.path, height=65)
        with pytest.raises(UsageError, match="num_videos is 0; give a whole number"):
            load(made.path, num_videos=0)

    # An engine of another size, of the same graphs; and the one that is taken for it.
    other = ["build", "--bundle", str(made.path), "--prompt-lengths", "32", "--optimization-level", "0"]
    other += ["--num-frames", "5"]
    fails(
        capsys, [*other[:3], "--num-frames", "5", "--target", "cpu"], "take every size; leave out num_frames, or that"
    )
    fails(capsys, [*other[:-1], "6", "--target", "sm_89"], "num_frames 6 is not 4n + 1")
    assert main([*other, "--target", "sm_89", "--json"]) == 0
    assert not json.loads(capsys.readouterr().out)["exported"]
    bundle = Bundle.open(made.path)
    assert bundle.defaults.num_frames == 9, "what a run makes that says nothing is as it was"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anyflow_rt.choice.present_target", lambda: "sm_89")
        found = [choose(bundle, call=Call(num_frames=frames)).record for frames in (5, None)]
    assert [each.profile for each in found if each is not None] == ["5x64x64", "9x64x64"]
    before = contents(made.path)

    # Here is no GPU: nothing of them is loaded, and the message says what to do.
    fails(capsys, ["run", "--bundle", str(made.path), "--prompt", "a", "--engine", RTX], "needs an NVIDIA GPU", code=1)
    fails(capsys, command(made, "--target", "sm_75", "--precision", "bf16"), "sm_75 has no bf16", "--precision fp16")
    fails(capsys, command(made, "--target", "sm_89", "--precision", "fp32"), "no precision 'fp32'; it has bf16, fp16")
    fails(capsys, command(made, "--target", "sm_90", "--engine", RTX), "cannot be built for target 'sm_90'")
    fails(
        capsys, command(made, "--target", "sm_89", "--smallest", "5x32x32"), "smallest and a largest size go together"
    )
    fails(capsys, command(made, "--target", "sm_89", "--smallest", "5x32"), "frames x height x width")
    fails(
        capsys,
        command(made, "--target", "sm_89", "--hardware", "ampere_plus"),
        "builds no engine with hardware ampere_plus",
    )
    fails(capsys, command(made, "--target", "sm_89", "--version-compatible"), "use --engine tensorrt")
    fails(capsys, command(made, "--target", "sm_89", "--refit"), "builds no engine with refit; leave it out")
    words = (
        "builds no engine with strip, as it needs an NVIDIA GPU to build one; leave it out, or use --engine tensorrt"
    )
    fails(capsys, command(made, "--target", "sm_89", "--strip"), words)
    ask = ["--target", "sm_89", "--smallest", "5x32x32", "--largest"]
    fails(capsys, command(made, *ask, "5x64x64"), "num_frames is 9, the smallest 5 and the largest 5; engines are")
    fails(capsys, command(made, *ask, "13x64x72"), "width 72 is not a multiple of 16")
    fails(capsys, command(made, "--target", "sm_89", "--batch", "65"), "give a whole number from 1 to 64")
    fails(capsys, [*command(made)[:-1], "32,9999", "--target", "sm_89"], "prompt_lengths ends at 9999; give at most")
    assert contents(made.path) == before


@needs_rtx
def test_the_graphs_are_enough(made: RandomBundle, capsys: pytest.CaptureFixture[str]) -> None:
    """A machine exports, another builds from a copy of the bundle: no checkpoint is read, and its text is in 8 bits."""
    shutil.copytree(made.checkpoint, checkpoint := made.path.parent / "checkpoint")
    told = ["build", "--ckpt", str(checkpoint), "--out", str(made.path), "--onnx-only", "--text-weights", "int8"]
    fails(capsys, [*told, "--check-parity"], "check_parity (--check-parity) holds a bundle to the reference")
    assert main([*told, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["exported"]) == ["text_encoder"], "the rest is as it was"
    assert text_weights_of(Bundle.open(made.path).manifest.components) == "int8"
    shutil.rmtree(checkpoint)
    before = contents(made.path)
    build = ["build", "--bundle", str(made.path), "--prompt-lengths", "32"]
    fails(capsys, [*build, "--target", "sm_89", "--engine", "triton"], "made of the checkpoint's weights", "--ckpt")
    fails(capsys, [*build, "--target", "sm_89", "--onnx-only"], "--onnx-only is about a checkpoint and --bundle takes")
    fails(capsys, ["build", "--bundle", str(made.path.parent), "--target", "sm_89"], "is not a bundle", code=1)
    assert main([*build, "--target", "sm_89", "--engine", RTX, "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["engines"] == ["sm_89 tensorrt_rtx bf16"] and planned["estimate"]["seconds"] > 0
    assert contents(made.path) == before
    assert main([*build, "--target", "sm_89", "--engine", RTX, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["compiled"] == ["sm_89 tensorrt_rtx bf16"]
    bundle = Bundle.open(made.path)
    (engine,) = bundle.manifest.engines
    assert engine.profile == "9x64x64-int8_text"
    parts = read_facts(bundle.engine_path(engine, "denoiser").parent).components
    assert all(parts[name][kind] > 0 for name in parts for kind in ("weights", "working", "ports", "seconds"))
    # A damaged engine is refused, and made again without the checkpoint.
    file = bundle.engine_path(engine, "denoiser")
    file.write_bytes(file.read_bytes()[:-100])
    fails(capsys, ["run", "--bundle", str(made.path), "--prompt", "a"], "is damaged", code=1)
    assert main([*build, "--target", "sm_89", "--engine", RTX, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["engines"] == ["sm_89 tensorrt_rtx bf16"]
    file.write_bytes(file.read_bytes() + bytes(100))
    assert main([*build[:-1], "32,64", "--target", "sm_89", "--engine", RTX]) == 0
    told_again = capsys.readouterr().err
    assert "nothing has changed" in told_again
    assert "kept as it is there, built with prompt_lengths 32 instead of 32,64; --force makes it again" in told_again


@needs_rtx
def test_a_killed_build_leaves_the_bundle_as_it_was(made: RandomBundle, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(made.path)
    script = [sys.executable, "-P", "-m", "anyflow_rt", *command(made, "--target", "sm_89", "--engine", RTX)]
    process = subprocess.Popen(script, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("conditioner for sm_89"):
            break  # two of six are there
    process.kill()
    process.communicate()
    assert Bundle.open(made.path).manifest.engines == (), "what no manifest names is not part of the bundle"
    assert set(before.items()) < set(contents(made.path).items())
    assert main(command(made, "--onnx-only")) == 0
    assert contents(made.path) == before, "and the next build removes it"

    # Too little disk is said before anything is made.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**6))
        fails(
            capsys,
            command(made, "--target", "sm_89"),
            " MB and ",
            " has 1.0 MB free; free some or give another",
            code=1,
        )
    fails(capsys, command(made, "--target", "sm_99"), "sm_99", code=2)
    assert contents(made.path) == before


@needs_rtx
def test_a_failed_build_leaves_the_bundle_as_it_was(
    made: RandomBundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(made.path)

    def refuse(*_: object, **__: object) -> None:
        raise EngineError("TensorRT 1.7 cannot build denoiser.onnx for sm_89: no reason; try another precision")

    monkeypatch.setattr("anyflow_rt.engines.tensorrt.compiler.compile_engine", refuse)
    assert main(command(made, "--target", "sm_89")) == 1
    assert "cannot build denoiser.onnx for sm_89" in capsys.readouterr().err.splitlines()[-1]
    assert contents(made.path) == before


def test_without_the_package(made: RandomBundle, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in (RTX, ENTERPRISE) else found(name))
    fails(capsys, command(made, "--target", "sm_89", "--engine", RTX), "pip install 'anyflow-rt[tensorrt-rtx]'", code=1)
    assert default_builder("sm_89") == "triton", "what is installed comes first"
    with pytest.raises(MissingPackageError, match=r"pip install 'anyflow-rt\[tensorrt\]'"):
        import_package(ENTERPRISE)


def test_enterprise_builds_on_its_own_gpu_only() -> None:
    require_present("sm_90", "sm_90")
    with pytest.raises(UsageError, match="only on a machine with that GPU, and this machine has none; copy the bundle"):
        require_present("sm_90", None)
    with pytest.raises(UsageError, match=r"this machine's is sm_80; .*, or take --engine tensorrt_rtx"):
        require_present("sm_89", "sm_80")
    assert builder_for(ENTERPRISE, "sm_90").usual_precision("sm_90") == "bf16"


def test_an_engine_that_cannot_be_made_here_is_refused_before_the_export(
    tmp_path: Path, made: RandomBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anyflow_rt.build import build

    found, said = importlib.util.find_spec, []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if name == ENTERPRISE else found(name))
    monkeypatch.setattr("anyflow_rt.engines.tensorrt.builders.present_target", lambda: "sm_80")
    options = BuildOptions(checkpoint=str(made.checkpoint), out=tmp_path / "b", targets=("sm_90",), engine=ENTERPRISE)
    with pytest.raises(UsageError, match=r"only on a machine with that GPU, and this machine's is sm_80"):
        build(options, said.append)
    assert said == [] and not (tmp_path / "b").exists()


def planned(made: RandomBundle, target: str, **settings: str) -> str:
    options = {"checkpoint": str(made.checkpoint), "targets": (target,), "engine": ENTERPRISE}
    plan = plan_build(BuildOptions(**options, tensorrt=TensorRtSettings(**settings)))
    return plan.wanted[0].profile


def test_triton_kernels_are_refused_where_there_are_none(
    made: RandomBundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = ["--triton-kernels", "norms"]
    words = "tensorrt_rtx builds no engine with triton_kernels norms, as it takes no plugins; leave it out, or use"
    fails(capsys, command(made, "--target", "sm_89", "--engine", RTX, *ask), words)
    fails(capsys, command(made, "--target", "sm_89", "--triton-kernels", "some"), "choose from none, norms, all")
    ask += ["--engine", ENTERPRISE]
    fails(capsys, command(made, "--target", "sm_75", *ask), "no Triton kernels for sm_75, only for sm_80, sm_86")
    fails(capsys, command(made, "--target", "sm_121", *ask), "leave out --triton-kernels")
    fails(capsys, command(made, "--target", "sm_89", *ask, "--hardware", "ampere_plus"), "for the target alone")
    with pytest.raises(UsageError, match=r"for sm_100 takes tensor memory, .*; use --triton-kernels norms"):
        planned(made, "sm_100", triton_kernels="all")
    assert planned(made, "sm_100", triton_kernels="norms").endswith("-triton_norms")
    assert "triton" not in planned(made, "sm_90")
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "triton" else found(name))
    with pytest.raises(MissingPackageError, match=r"--triton-kernels needs .*pip install 'anyflow-rt\[tensorrt\]'"):
        planned(made, "sm_90", triton_kernels="all")


def test_what_only_tensorrt_reads_is_refused_elsewhere(made: RandomBundle, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--smallest", "5x64x64", "--largest", "9x64x64"]
    asked = {
        "prompt_lengths (--prompt-lengths)": ["--prompt-lengths", "32"],
        "smallest (--smallest)": sizes,
        "batch (--batch)": ["--batch", "2"],
        "triton_kernels (--triton-kernels)": ["--triton-kernels", "all"],
        "weight_streaming (--weight-streaming)": ["--weight-streaming"],
    }
    build = ["build", "--ckpt", str(made.checkpoint), "--out", str(made.path), "--dry-run"]
    mend = "leave it out, or use --engine tensorrt_rtx or tensorrt"
    for words, flags in asked.items():
        told = f"{words} is about TensorRT engines, and what is built is triton for sm_89; {mend}"
        fails(capsys, [*build, "--engine", "triton", "--target", "sm_89", *flags], told, code=2)
        fails(capsys, [*build, *flags], f"{words} is about TensorRT engines", "for cpu", code=2)
    fails(capsys, ["build", "--bundle", str(made.path), *sizes, "--dry-run"], "smallest (--smallest) is about", code=2)
    TensorRtSettings(batch=2).check_used({"cpu": "openvino", "sm_89": RTX})
    TensorRtSettings(batch=2).check_used({})


def test_packages_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(package.importlib, "import_module", lambda name: SimpleNamespace(__version__="10.14.1"))
    with pytest.raises(EngineError, match=r"tensorrt 10.14.1 is too old; 10.15 or later .* pip install --upgrade"):
        import_package(ENTERPRISE)

    def broken(name: str) -> None:
        raise OSError("libnvinfer.so.11: cannot open shared object file")

    monkeypatch.setattr(package.importlib, "import_module", broken)
    with pytest.raises(EngineError, match=r"cannot be loaded \(libnvinfer.* pip install --force-reinstall"):
        import_package(ENTERPRISE)


@pytest.mark.parametrize(
    "here, words",
    [
        ({}, None),
        ({"present": None}, "needs an NVIDIA GPU and this machine shows none"),
        (
            {"present": "sm_86"},
            "GPU is sm_86; it has to have its own: add it with  .*--target sm_86 --engine tensorrt_rtx$",
        ),
        (
            {"present": "sm_103"},
            "GPU is sm_103, for which none can be built yet; leave out --engine to run on",
        ),
        ({"present": "sm_90"}, "GPU is sm_90; it has to have its own: add it with  .*--target sm_90$"),
        ({"driver": "550.54.15"}, "the NVIDIA driver is 550.54.15 and tensorrt_rtx_cu13 needs 580 or later"),
        ({"driver": "550.54.15", "distribution": "tensorrt_rtx_cu12"}, None),
        ({"driver": "530.1", "distribution": "tensorrt_cu12"}, "530.1 and tensorrt_cu12 needs 535 or later"),
        ({"driver": "550.1", "distribution": "tensorrt"}, "and tensorrt needs 580 or later; update the driver"),
        ({"driver": None}, None),
        (
            {"installed": "1.8.0.1"},
            "1.7.1.116 and 1.8.0.1 is installed: run  pip install tensorrt-rtx==1.7.1.116  or make it with  anyflow-rt "
            "build --bundle .*/b --target sm_89 --engine tensorrt_rtx --precision bf16 --force$",
        ),
    ],
)
def test_what_engines_ask_of_a_machine(here: dict[str, str | None], words: str | None, tmp_path: Path) -> None:
    machine = {"installed": "1.7.2", "present": "sm_89", "driver": "580.95.05", "distribution": "tensorrt_rtx_cu13"}
    machine |= here
    engine = tmp_path / "b/engines/sm_89/tensorrt_rtx-bf16-9x64x64/denoiser.engine"
    engine.parent.mkdir(parents=True)
    (tmp_path / "b" / MANIFEST_NAME).touch()
    if words is None:
        check_requirements(FACTS, engine, **machine)
        return
    with pytest.raises(EngineError, match=words):
        check_requirements(FACTS, engine, **machine)


def test_engines_that_take_other_packages_and_gpus(tmp_path: Path) -> None:
    facts = replace(FACTS, settings=asdict(TensorRtSettings(version_compatible=True)))
    machine = {"present": "sm_89", "driver": None, "distribution": RTX}
    check_requirements(facts, tmp_path, installed="1.9.0", **machine)
    wide = replace(FACTS, settings=asdict(TensorRtSettings(hardware="ampere_plus")), target="sm_80")
    check_requirements(wide, tmp_path, installed="1.7.1", **machine)
    with pytest.raises(EngineError, match="is for sm_80 and this machine's GPU is sm_75"):
        check_requirements(wide, tmp_path, installed="1.7.1", **{**machine, "present": "sm_75"})
    with pytest.raises(EngineError, match="was built with"):
        check_requirements(facts, tmp_path, installed="1.6.0", **machine)


def test_which_distribution_is_installed() -> None:
    assert distribution_of("no_such_package") == "no_such_package"
    if importlib.util.find_spec(RTX) is not None:
        assert distribution_of(RTX).rpartition("_cu")[2] in ("12", "13")


WHOLE = json.loads(json.dumps({"schema": SCHEMA, **vars(FACTS)}))


@pytest.mark.parametrize(
    "values, words",
    [
        ({}, f"its schema is None and this anyflow-rt reads {SCHEMA}"),
        ({**WHOLE, "schema": 1}, "its schema is 1"),
        ({**WHOLE, "odd": 1}, "it has an unknown odd"),
        ({**WHOLE, "version": 3}, "it: version is 3"),
        ({**WHOLE, "settings": {}}, "settings has no batch, cross_keys"),
        ({**WHOLE, "settings": {**WHOLE["settings"], "prompt_lengths": "32"}}, "settings: prompt_lengths is '32'"),
        ({**WHOLE, "components": {"denoiser": {}}}, "components has no text_encoder, conditioner"),
        ({**WHOLE, "components": {**WHOLE["components"], "denoiser": {"bytes": 1}}}, "denoiser has no decomposed"),
        ([], "it is no JSON object"),
    ],
)
def test_a_damaged_record(values: object, words: str, tmp_path: Path) -> None:
    FACTS.write(tmp_path)
    assert read_facts(tmp_path).components["denoiser"]["layers"] == 9
    (tmp_path / RECORD).write_text(json.dumps(values))
    with pytest.raises(EngineError, match=rf"engine\.json cannot be read \({re.escape(words)}"):
        read_facts(tmp_path)
    (tmp_path / RECORD).write_text("{")
    with pytest.raises(EngineError, match=r"engine\.json cannot be read \(Expecting"):
        read_facts(tmp_path)


def test_the_mend_makes_the_same_engine_again(tmp_path: Path) -> None:
    engine = tmp_path / "b/engines/sm_90/tensorrt-bf16-5x64x64-9x64x64-all_keys/denoiser.engine"
    engine.parent.mkdir(parents=True)
    manifest = {"defaults": {"num_frames": 9, "height": 64, "width": 64}, "checkpoint": {"id": "a/b", "revision": None}}
    (tmp_path / "b" / MANIFEST_NAME).write_text(json.dumps(manifest))
    small, large = VideoSize(5, 64, 64), VideoSize(9, 64, 64)
    settings = TensorRtSettings(small, large, 2, (32, 64), "all", 0, refit=True, strip=True, triton_kernels="norms")
    replace(FACTS, package=ENTERPRISE, settings=asdict(settings)).write(engine.parent)
    same = "--precision bf16 --smallest 5x64x64 --largest 9x64x64 --batch 2 --prompt-lengths 32,64 --cross-keys all"
    assert engine_mend(engine) == (
        f"make it with  anyflow-rt build --bundle {tmp_path}/b --target sm_90 --engine tensorrt {same} "
        "--optimization-level 0 --refit --strip --triton-kernels norms --force"
    )
    assert "--strip" not in engine_mend(engine, strip=False)
    assert engine_mend(engine, weight_streaming=True, batch=1).count(" --weight-streaming") == 1
    wider = engine_mend(engine, size=VideoSize(9, 64, 128))
    assert "--bundle" in wider and "--num-frames 9 --height 64 --width 128 --target sm_90" in wider
    assert "--smallest" not in wider and "--force" not in wider and "--precision bf16 --batch 2" in wider
    assert "--refit" not in engine_mend(engine, target="sm_89", engine=RTX, force=False)
    other = engine.parent.rename(engine.parent.with_name("tensorrt-bf16-17x64x64")) / "denoiser.engine"
    assert f"build --bundle {tmp_path}/b --num-frames 17 --height 64 --width 64 --target" in engine_mend(other)


@pytest.mark.parametrize(
    "call, words",
    [
        ({}, None),
        (
            {"given": True},
            "built without the encoder of pictures and clips .*--engine openvino .*, or make it with  anyflow-rt build "
            "--bundle .*/b --target sm_89 --engine tensorrt_rtx --precision bf16 --force$",
        ),
        ({"tokens": 512}, None),
        ({"tokens": 600}, "has 600 tokens and the engine .* takes up to 512; shorten it, or "),
        ({"videos": 3}, "3 videos at once were asked for and the engine takes 1; ask for fewer, or "),
        (
            {"latent": LatentSize(5, 16, 8, 8), "size": VideoSize(17, 64, 64)},
            r"makes 9 frames of 64x64 pixels \(height x width\) and 17 frames of 64x64 pixels .* was asked for; "
            "ask for what it makes, or add it with  anyflow-rt build --bundle .*/b .*--target sm_89 --engine "
            "tensorrt_rtx --precision bf16$",
        ),
        ({"latent": LatentSize(5, 16, 8, 8)}, "takes latents of frames x height x width 3x8x8 and .* has 5x8x8; ask"),
    ],
)
def test_a_call_the_engines_were_not_built_for(call: dict[str, object], words: str | None, tmp_path: Path) -> None:
    usual = {"latent": LatentSize(3, 16, 8, 8), "videos": 1, "max_sequence_length": 512, "given": False} | call
    size = usual.pop("latent")
    engine = tmp_path / "b/engines/sm_89/tensorrt_rtx-bf16-9x64x64/denoiser.engine"
    engine.parent.mkdir(parents=True)
    (tmp_path / "b" / MANIFEST_NAME).touch()
    if words is None:
        check_call(FACTS, engine, size, **usual)
        return
    with pytest.raises(UsageError, match=words):
        check_call(FACTS, engine, size, **usual)


def test_a_call_within_a_range_and_with_all_keys(tmp_path: Path) -> None:
    def latents(*shape: int) -> dict[str, tuple[int, ...]]:
        return {"latents": shape}

    profile = {
        "smallest": latents(1, 2, 16, 4, 4),
        "usual": latents(4, 3, 16, 8, 8),
        "largest": latents(4, 4, 16, 8, 8),
    }
    parts = {**FACTS.components, "denoiser": asdict(replace(PART, profiles=(profile,)))}
    facts = replace(FACTS, components=parts, settings=asdict(TensorRtSettings(batch=4, cross_keys="all")))
    file, call = tmp_path / "denoiser.engine", {"videos": 3, "max_sequence_length": 512, "given": False}
    check_call(facts, file, LatentSize(2, 16, 4, 8), **call)
    with pytest.raises(UsageError, match=r"5 videos at once .* takes 1 to 4; ask"):
        check_call(facts, file, LatentSize(2, 16, 4, 8), **{**call, "videos": 5})
    with pytest.raises(UsageError, match="2x4x4 to 4x8x8 and the size"):
        check_call(facts, file, LatentSize(2, 16, 4, 12), **call)
    with pytest.raises(UsageError, match="all of 512 keys, and max_sequence_length 64 was asked for; ask for 512"):
        check_call(facts, file, LatentSize(2, 16, 4, 8), **{**call, "max_sequence_length": 64})


@needs_rtx
def test_an_engine_is_not_loaded_before_it_is_known_to_fit(tmp_path: Path) -> None:
    FACTS.write(tmp_path)
    (tmp_path / "denoiser.engine").write_bytes(b"never read")
    with pytest.raises(EngineError, match="needs an NVIDIA GPU"):
        runner.TensorRtEngine(tmp_path / "denoiser.engine")


def test_profile_names() -> None:
    from anyflow_rt.engines.geometry import VideoSize

    size, small = VideoSize(81, 480, 832), VideoSize(5, 64, 64)
    assert TensorRtSettings().profile_name(size) == "81x480x832"
    assert TensorRtSettings(cross_keys="all").profile_name(size) == "81x480x832-all_keys"
    assert TensorRtSettings(smallest=small, largest=size).profile_name(size) == "5x64x64-81x480x832"
    assert TensorRtSettings(triton_kernels="all").profile_name(size) == "81x480x832-triton_all"
    assert TensorRtSettings(batch=4, hardware="ampere_plus").profile_name(size) == "81x480x832-batch4-ampere_plus"
