"""Bundles: made whole or not at all, opened in milliseconds, refused in one sentence."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from anyflow_rt.engines import locations
from anyflow_rt.engines.architecture import (
    Architecture,
    SchedulerConfig,
    TextEncoderConfig,
    TransformerConfig,
    VaeConfig,
)
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.bundle_writer import BundleWriter
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.engines.manifest import CheckpointRecord, Defaults, Manifest
from anyflow_rt.errors import BundleError, OutputError

ARCHITECTURE = Architecture(
    "AnyFlowPipeline",
    TransformerConfig(num_layers=2),
    VaeConfig(latents_mean=(0.5,) * 16, latents_std=(2.0,) * 16),
    TextEncoderConfig(vocab_size=10, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2),
    SchedulerConfig(shift=3.0),
)
DEFAULTS = Defaults(num_frames=17, height=64, width=64, fps=8)
NAMES = ("text_encoder", "denoiser")


def writer(path: Path, *, sha256: str = "a" * 64, export_version: int = 1, force: bool = False) -> BundleWriter:
    return BundleWriter(
        path,
        checkpoint=CheckpointRecord(f"checkpoints/{sha256[0]}", None, sha256),
        export_version=export_version,
        architecture=ARCHITECTURE,
        defaults=DEFAULTS,
        packages={"torch": "2.13.0"},
        force=force,
    )


def fill(build: BundleWriter, tmp_path: Path, content: str = "graph", names: tuple[str, ...] = NAMES) -> list[str]:
    """Add what is missing; returns what that was."""
    tokenizer = tmp_path / "tokenizer-source.json"
    tokenizer.write_text('{"model": {}}')
    build.set_tokenizer(tokenizer)
    missing = [name for name in names if not build.has_component(name)]
    for name in missing:
        with build.component(name) as folder:
            (folder / f"{name}.onnx").write_text(f"{content} of {name}")
            (folder / f"{name}.onnx.data").write_text(f"weights of {name}")
    return missing


def make(tmp_path: Path, **options) -> Bundle:
    with writer(tmp_path / "out", **options) as build:
        fill(build, tmp_path)
        return build.commit()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def left_over(tmp_path: Path) -> list[str]:
    """What lies beside the bundle, the lock aside."""
    return sorted(p.name for p in tmp_path.iterdir() if p.name not in ("out", ".out.lock", "tokenizer-source.json"))


def test_made_and_opened(tmp_path: Path) -> None:
    made = make(tmp_path)
    bundle = Bundle.open(str(tmp_path / "out"))
    assert bundle == made
    assert len(bundle.id) == 64
    assert bundle.architecture == ARCHITECTURE
    assert bundle.defaults.size == VideoSize(17, 64, 64)
    assert bundle.component_path("denoiser").read_text() == "graph of denoiser"
    assert (tmp_path / "out/onnx/denoiser.onnx.data").is_file()
    assert json.loads(bundle.tokenizer_path.read_text()) == {"model": {}}
    assert bundle.calibration_path == tmp_path / "out/calibration.json"
    assert {part.name: part.seconds >= 0 for part in bundle.manifest.components} == dict.fromkeys(NAMES, True)
    bundle.verify()
    assert left_over(tmp_path) == []
    with pytest.raises(BundleError, match=r"no component 'vae' \(it has denoiser, text_encoder\)"):
        bundle.component_path("vae")


def test_manifest_text_is_stable(tmp_path: Path) -> None:
    """Reading and writing gives the same text, whatever order the parts were added in."""
    manifest = make(tmp_path).manifest
    text = (tmp_path / "out/manifest.json").read_text()
    assert list(json.loads(text))[:3] == ["schema", "bundle_id", "checkpoint"]
    assert Manifest.from_json(text).to_json() == text
    assert replace(manifest, components=manifest.components[::-1]).to_json() == text


def test_identity(tmp_path: Path) -> None:
    ids = {writer(tmp_path, sha256=c * 64, export_version=v).bundle_id for c in "ab" for v in (1, 2)}
    assert len(ids) == 4


def test_opening_is_fast_and_light(tmp_path: Path) -> None:
    """Under 5 ms, and nothing heavy is imported."""
    make(tmp_path)
    script = (
        "import sys, time\n"
        "from anyflow_rt.engines.bundle import Bundle\n"
        f"open_it = lambda: Bundle.open({str(tmp_path / 'out')!r})\n"
        "def seconds():\n    start = time.perf_counter(); open_it(); return time.perf_counter() - start\n"
        "assert min(seconds() for _ in range(5)) < 0.005\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'filelock'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_second_build_adds_what_is_missing(tmp_path: Path) -> None:
    before = make(tmp_path)
    (tmp_path / "out/notes.txt").write_text("the user's own")
    (tmp_path / "out/calibration.json").write_text("{}")
    with writer(tmp_path / "out") as build:
        assert fill(build, tmp_path) == []
        assert fill(build, tmp_path, names=(*NAMES, "conditioner")) == ["conditioner"]
        assert not build.has_engine("sm_89", "tensorrt", "bf16")
        with build.engine("sm_89", "tensorrt", "bf16", {"numpy": "0.1"}) as folder:
            (folder / "denoiser.engine").write_text("engine")
        after = build.commit()
    assert after.id == before.id
    kept = {part.name: part for part in after.manifest.components}
    assert all(kept[part.name] == part for part in before.manifest.components)
    assert after.component_path("conditioner").read_text() == "graph of conditioner"
    assert (tmp_path / "out/notes.txt").exists()
    assert after.calibration_path.exists()
    (engine,) = after.manifest.engines
    assert (engine.key, engine.packages) == (("sm_89", "tensorrt", "bf16", "dynamic"), {"numpy": "0.1"})


def test_an_engine_made_again_gets_new_files(tmp_path: Path) -> None:
    """Files that a manifest names are never written again."""
    make(tmp_path)
    paths = []
    for content in ("one", "two"):
        with writer(tmp_path / "out") as build:
            with build.engine("cpu", "openvino", "fp32", {}) as folder:
                (folder / "denoiser.blob").write_text(content)
            (engine,) = build.commit().manifest.engines
            paths.append(engine.files[0].path)
    assert paths[0] != paths[1]
    assert not (tmp_path / "out" / paths[0]).exists()
    assert (tmp_path / "out" / paths[1]).read_text() == "two"


def test_damaged_parts_are_made_again(tmp_path: Path) -> None:
    bundle = make(tmp_path)
    bundle.component_path("denoiser").unlink()
    with pytest.raises(
        BundleError, match=r"onnx/denoiser\.onnx is missing; build it again with .*--ckpt checkpoints/a"
    ):
        Bundle.open(bundle.path)
    with writer(bundle.path) as build:
        assert fill(build, tmp_path) == ["denoiser"]
        build.commit().verify()
    bundle = Bundle.open(bundle.path)
    bundle.component_path("denoiser").write_text("short")
    with pytest.raises(BundleError, match=r"denoiser\.onnx has 5 bytes instead of 17"):
        Bundle.open(bundle.path)


def test_verify_finds_what_sizes_do_not_show(tmp_path: Path) -> None:
    bundle = make(tmp_path)
    path = bundle.component_path("denoiser")
    path.write_text(path.read_text().upper())
    with pytest.raises(BundleError, match=r"denoiser\.onnx has other contents than were built.*--force"):
        Bundle.open(bundle.path).verify()
    with writer(bundle.path, force=True) as build:
        assert fill(build, tmp_path) == list(NAMES)
        build.commit().verify()


def test_another_checkpoint_needs_force(tmp_path: Path) -> None:
    before = make(tmp_path)
    old = contents(before.path)
    for options in ({"sha256": "b" * 64}, {"export_version": 2}):
        with pytest.raises(BundleError, match=r"another checkpoint or version \(checkpoints/a\).*--force"):
            make(tmp_path, **options)
    assert contents(before.path) == old
    after = make(tmp_path, sha256="b" * 64, force=True)
    assert after.id != before.id
    assert len(contents(after.path)) == len(old)
    after.verify()


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda text: text[:100], r"its manifest\.json is damaged"),
        (lambda text: "[" * 100000, r"its manifest\.json is damaged"),
        (lambda text: "[]", "it has schema None"),
        (lambda text: text.replace('"schema": 1', '"schema": 7'), "schema 7, and this anyflow-rt reads schema 1"),
        (lambda text: text.replace('"export_version": 1', '"export_version": 2'), "is not that of its contents"),
        (lambda text: text.replace('"seconds"', '"minutes"'), r"missing or unknown: components\[0\]\.minutes, comp"),
        (lambda text: text.replace("onnx/denoiser", "../denoiser"), "which is not below it"),
        (lambda text: text.replace('"shift"', '"drift"'), "scheduler architecture differs in the keys drift, shift"),
        (lambda text: text.replace("tokenizer.json", "\\ud800"), "names the file"),
    ],
)
def test_damaged_manifest(tmp_path: Path, damage, message: str) -> None:
    bundle = make(tmp_path)
    manifest = bundle.path / "manifest.json"
    manifest.write_text(damage(manifest.read_text()))
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.open(bundle.path)
    assert "anyflow-rt build" in str(caught.value)
    with pytest.raises(BundleError, match="--force"):
        make(tmp_path)
    make(tmp_path, force=True).verify()


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("checkpoint",), 5, "checkpoint is 5"),
        (("checkpoint", "id"), None, "checkpoint.id is None"),
        (("export_version",), "1", "export_version is '1'"),
        (("export_version",), True, "export_version is True"),
        (("defaults", "num_frames"), "17", "defaults.num_frames is '17'"),
        (("defaults", "fps"), [8], r"defaults.fps is \[8\]"),
        (("tokenizer",), None, "tokenizer is None"),
        (("tokenizer", "path"), 5, "tokenizer.path is 5"),
        (("components",), {}, "components is {}"),
        (("components", 0), "denoiser", r"components is \['denoiser'"),
        (("components", 0, "files"), 5, r"components\[0\].files is 5"),
        (("components", 0, "files"), [], r"components\[0\].files is empty"),
        (("components", 0, "files", 0, "size"), "12", r"components\[0\].files\[0\].size is '12'"),
        (("packages",), {"torch": 2}, "packages is {'torch': 2}"),
        (("engines",), None, "engines is None"),
        (("architecture",), [], r"architecture is \[\]"),
        (("architecture", "pipeline"), 5, "pipeline is 5"),
        (("architecture", "transformer"), 5, "'transformer' section"),
        (("architecture", "transformer", "eps"), "tiny", "architecture.transformer.eps is 'tiny'"),
        (("architecture", "transformer", "patch_size"), [1, 2], r"architecture.transformer.patch_size is \[1, 2\]"),
        (("architecture", "vae", "attn_scales"), ["x"], r"architecture.vae.attn_scales is \['x'\]"),
    ],
)
def test_a_manifests_types(tmp_path: Path, place: tuple[str | int, ...], value: object, said: str) -> None:
    """Each is named by file and key."""
    manifest = make(tmp_path).path / "manifest.json"
    part = values = json.loads(manifest.read_text())
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    manifest.write_text(json.dumps(values))
    with pytest.raises(BundleError, match=said) as caught:
        Bundle.open(manifest.parent)
    assert f"the bundle {manifest.parent} cannot be used: its manifest.json is damaged" in str(caught.value)


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle at .*none; make one with  anyflow-rt build"):
        Bundle.open(tmp_path / "none")
    with pytest.raises(BundleError, match=r"is not a bundle: it has no manifest\.json"):
        Bundle.open(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    for path in (tmp_path / "full", tmp_path / "full/file"):
        with pytest.raises(BundleError, match="exists and is not a bundle"), writer(path):
            pass
    (tmp_path / "out").mkdir()
    make(tmp_path).verify()


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writer(tmp_path / "out") as build:
        fill(build, tmp_path)
        raise ZeroDivisionError
    assert left_over(tmp_path) == []
    assert not (tmp_path / "out").exists()
    old = contents(make(tmp_path).path)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), writer(tmp_path / "out") as build:
            fill(build, tmp_path, names=("conditioner",))
            with build.component("extra") as folder:
                (folder / "extra.onnx").write_text("half")
                raise KeyboardInterrupt
        assert contents(tmp_path / "out") == old
    with (
        pytest.raises(BundleError, match=r"wrote no extra\.onnx"),
        writer(tmp_path / "out") as build,
        build.component("extra"),
    ):
        pass
    assert contents(tmp_path / "out") == old


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_bundle import fill, writer
with writer(Path({out!r}), force={force}) as build:
    fill(build, Path({tmp!r}), content="new")
    with build.component("extra") as folder:
        (folder / "extra.onnx").write_text("half")
        print("ready", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("existing", [False, True])
def test_killed(tmp_path: Path, stop: signal.Signals, existing: bool) -> None:
    """A build killed half-way leaves the bundle as it was, and the next build clears up after it."""
    old = contents(make(tmp_path).path) if existing else {}
    script = KILLED.format(
        tests=str(Path(__file__).parent), out=str(tmp_path / "out"), tmp=str(tmp_path), force=existing
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(stop)
        process.wait(timeout=30)
    assert process.returncode != 0
    if existing:
        Bundle.open(tmp_path / "out").verify()
        assert all(contents(tmp_path / "out")[name] == content for name, content in old.items())
    else:
        assert not (tmp_path / "out").exists()
    make(tmp_path).verify()
    assert left_over(tmp_path) == []
    if existing:
        assert contents(tmp_path / "out") == old


def test_two_builds_take_turns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made: list[list[str]] = []

    def second() -> None:
        with writer(tmp_path / "out") as build:
            made.append(fill(build, tmp_path))
            build.commit()

    with writer(tmp_path / "out") as build:
        thread = threading.Thread(target=second)
        thread.start()
        made.append(fill(build, tmp_path))
        time.sleep(0.2)
        assert len(made) == 1
        build.commit()
    thread.join(timeout=10)
    assert made == [list(NAMES), []]
    assert "another build" in caplog.text


@pytest.mark.parametrize("damaged", ["denoiser.engine", "engine.json"])
def test_a_damaged_engine_alone_is_made_again(damaged: str, tmp_path: Path) -> None:
    bundle = make(tmp_path)
    with writer(bundle.path) as build:
        for engine in ("tensorrt_rtx", "tensorrt", "triton"):
            with build.engine("sm_89", engine, "bf16", {}, "17x64x64") as folder:
                (folder / "denoiser.engine").write_text("an engine")
                (folder / "engine.json").write_text("on record")
        bundle = build.commit()
    folder = bundle.path / "engines/sm_89"
    again = f"anyflow-rt build --bundle {bundle.path} --target sm_89 --engine"
    (folder / "tensorrt_rtx-bf16-17x64x64" / damaged).write_text("something")
    with pytest.raises(BundleError, match=rf"other contents.*; make it with  {again} tensorrt_rtx .* --force$"):
        bundle.verify()
    (folder / "tensorrt_rtx-bf16-17x64x64" / damaged).unlink()
    with pytest.raises(
        BundleError, match=rf"{damaged} is missing; make it with  {again} tensorrt_rtx --precision bf16 --force$"
    ):
        Bundle.open(bundle.path)
    (folder / "tensorrt-bf16-17x64x64" / damaged).write_text("short")
    with pytest.raises(BundleError, match=rf"{again} tensorrt .* --force, then make it with  {again} tensorrt_rtx "):
        Bundle.open(bundle.path)
    for engine in ("tensorrt_rtx", "tensorrt", "triton"):
        (folder / f"{engine}-bf16-17x64x64" / damaged).write_text("an engine")
    (folder / "triton-bf16-17x64x64" / damaged).unlink()
    with pytest.raises(BundleError, match=r"; build it again with .*--ckpt .* --engine triton --precision bf16$"):
        Bundle.open(bundle.path)


def test_no_space(tmp_path: Path) -> None:
    with writer(tmp_path / "out") as build:
        build.require_space(1000)
        with pytest.raises(OutputError, match=r"needs 1000000000\.0 GB and .* free; free some or give another place"):
            build.require_space(10**18)
    with (
        pytest.raises(OutputError, match=r"no space is left for .*out .*--out"),
        writer(tmp_path / "out") as build,
        build.component("denoiser"),
        open("/dev/full", "w") as full,
    ):
        full.write("a graph")
    assert left_over(tmp_path) == []


def test_an_input_that_fails_is_not_the_outputs_fault(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), writer(tmp_path / "out") as build, build.component("denoiser"):
        (tmp_path / "no checkpoint").read_bytes()


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*mend its permissions or give another place"):
        writer(tmp_path / "file" / "out").__enter__()
    old = contents(make(tmp_path).path)

    def read_only(*_arguments, **_options) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(OutputError, match="Read-only file system"):
        make(tmp_path, force=True)
    assert contents(tmp_path / "out") == old


def test_locations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "cache/anyflow-rt"
    assert locations.default_bundle_path("owner/name") == root / "bundles/owner--name"
    assert locations.compiled_cache("abc") == root / "compiled/abc"
    for parent in ("one", "two"):
        (tmp_path / parent / "my shapes").mkdir(parents=True)
    one, two = (locations.default_bundle_path(tmp_path / parent / "my shapes") for parent in ("one", "two"))
    assert one != two
    assert one.parent == root / "bundles"
    assert one.name.startswith("my_shapes-")
    assert locations.default_bundle_path("../ ..") == root / "bundles/checkpoint"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locations.cache_root() == tmp_path / ".cache/anyflow-rt"
