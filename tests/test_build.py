"""Checkpoint to bundle: only what is not there yet, and never half of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.bundles import RandomBundle, random_bundle
from support.checkpoints import make_checkpoint

from anyflow_rt.build import BuildReport, build
from anyflow_rt.build_plan import BuildOptions, Preview, preview
from anyflow_rt.defaults import WAN_VIDEO
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.checkpoint import load_checkpoint
from anyflow_rt.engines.export import COMPONENT_NAMES
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.engines.locations import default_bundle_path
from anyflow_rt.errors import BundleError, CheckpointError, MissingPackageError, ParityError, UsageError
from anyflow_rt.sampling.calibration import Calibration, Edge, QualityPoint, read_calibration, write_calibration
from anyflow_rt.tokenizer import reference_tokenizer

SIZE = {"height": 32, "width": 32, "num_frames": 5}


@pytest.fixture
def made(tmp_path: Path) -> RandomBundle:
    """A copy of a bundle to change as one likes, of a checkpoint that is shared."""
    shared = random_bundle("base")
    return RandomBundle(Path(shutil.copytree(shared.path, tmp_path / "bundle")), shared.checkpoint)


def rebuild(made: RandomBundle, **options) -> BuildReport:
    return build(BuildOptions(**{"checkpoint": str(made.checkpoint), "out": made.path, "onnx_only": True, **options}))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lose(made: RandomBundle, component: str) -> None:
    Bundle.open(made.path).component_path(component).unlink()


def test_nothing_to_do(made: RandomBundle) -> None:
    before = contents(made.path)
    done = rebuild(made)
    assert (done.changed, done.exported, done.compiled, done.parity) == (False, {}, {}, ())
    assert done.seconds < 2
    assert contents(made.path) == before


def test_only_what_is_missing_is_made(made: RandomBundle) -> None:
    before = contents(made.path)
    lose(made, "time_embedder")
    done = rebuild(made)
    assert done.changed
    assert list(done.exported) == ["time_embedder"]
    after = contents(made.path)
    others = {name for name in before if name.startswith("onnx/") and "time_embedder" not in name}
    assert others
    assert all(after[name] == before[name] for name in others)
    Bundle.open(made.path).verify()
    assert not rebuild(made).changed


def test_a_lost_tokenizer_is_made_again(made: RandomBundle) -> None:
    tokenizer = Bundle.open(made.path).tokenizer_path
    before = tokenizer.read_bytes()
    tokenizer.unlink()
    done = rebuild(made)
    assert (done.changed, done.exported) == (True, {})
    assert Bundle.open(made.path).tokenizer_path.read_bytes() == before


def test_the_tokenizer_is_the_references(made: RandomBundle) -> None:
    """As transformers' class reads it, which is not always what the checkpoint's file says."""
    import transformers
    from tokenizers import Tokenizer

    loaded = transformers.T5TokenizerFast.from_pretrained(made.checkpoint / "tokenizer")
    stored = Tokenizer.from_file(str(Bundle.open(made.path).tokenizer_path))
    for text in ("a red circle", "  the  small   square", "x&y <b> A.B, c!", "日本 🎬 é"):
        assert stored.encode(text).ids == loaded(text).input_ids


def test_sizes_are_kept_until_others_are_asked_for(made: RandomBundle) -> None:
    assert Bundle.open(made.path).defaults == WAN_VIDEO
    done = rebuild(made, height=64, num_frames=9)
    assert (done.changed, done.exported) == (True, {})
    assert Bundle.open(made.path).defaults.size == VideoSize(9, 64, WAN_VIDEO.width)
    assert not rebuild(made).changed, "an option left out takes nothing back"
    assert rebuild(made, height=32).changed
    assert Bundle.open(made.path).defaults.size == VideoSize(9, 32, WAN_VIDEO.width)


def test_a_target_is_added(made: RandomBundle) -> None:
    done = rebuild(made, onnx_only=False, engine="onnxruntime", check_parity=False)
    assert (done.exported, list(done.compiled)) == ({}, ["cpu onnxruntime fp32"])
    (engine,) = Bundle.open(made.path).manifest.engines
    assert (engine.target, engine.engine, engine.precision) == ("cpu", "onnxruntime", "fp32")
    assert not rebuild(made, onnx_only=False, engine="onnxruntime").changed


def test_parity_is_checked_where_asked_for(made: RandomBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    done = rebuild(made, engine="onnxruntime", check_parity=True, **SIZE)
    assert [parity.precision for parity in done.parity] == ["fp32"]
    assert done.parity[0].holds
    before = contents(made.path)
    lost = Bundle.open(made.path).component_path("time_embedder")
    lost.unlink()
    monkeypatch.setattr("anyflow_rt.parity.LATENT_BOUND", 0.0)
    with pytest.raises(ParityError, match="does not reproduce diffusers"):
        rebuild(made, engine="onnxruntime", check_parity=True)
    assert contents(made.path) == {name: data for name, data in before.items() if not name.endswith(lost.name)}


def test_another_checkpoint_needs_force(made: RandomBundle, tmp_path: Path) -> None:
    other = make_checkpoint(tmp_path / "other", seed=99)
    before = contents(made.path)
    with pytest.raises(BundleError, match="--force"):
        rebuild(made, checkpoint=str(other))
    assert contents(made.path) == before


def test_a_place_that_is_no_bundle(made: RandomBundle, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "letter.txt").write_text("dear ...")
    for force in (False, True):
        with pytest.raises(BundleError, match="--out"):
            rebuild(made, out=folder, force=force)
    assert contents(folder) == {"letter.txt": b"dear ..."}


def test_the_caches_bundle_follows_its_checkpoint(
    made: RandomBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody gave a place, a bundle of what the checkpoint was before is replaced without being asked."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checkpoint = Path(shutil.copytree(made.checkpoint, tmp_path / "checkpoint"))
    place = default_bundle_path(checkpoint)
    shutil.copytree(made.path, place)
    assert not rebuild(made, checkpoint=str(checkpoint), out=None).changed
    config = checkpoint / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "shift": 2.0}))
    exported: list[str] = []
    monkeypatch.setattr("anyflow_rt.build._export", lambda writer, _, name, __: stand_in(writer, name, exported))
    assert rebuild(made, checkpoint=str(checkpoint), out=None).changed
    assert tuple(exported) == COMPONENT_NAMES
    assert Bundle.open(place).architecture.scheduler.shift == 2.0


def test_force_makes_everything_again(made: RandomBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    exported: list[str] = []
    monkeypatch.setattr("anyflow_rt.build._export", lambda writer, _, name, __: stand_in(writer, name, exported))
    assert rebuild(made, force=True).changed
    assert tuple(exported) == COMPONENT_NAMES


def stand_in(writer, name: str, exported: list[str]) -> float:
    """In place of an export that takes seconds: these tests ask which parts are exported, not what comes of it."""
    with writer.component(name) as folder:
        (folder / f"{name}.onnx").write_text(name)
    exported.append(name)
    return 0.0


def test_preview(made: RandomBundle, tmp_path: Path) -> None:
    """What a build would do, given what is there; and nothing changes."""

    def look(**options) -> Preview:
        named = {"checkpoint": str(made.checkpoint), "out": made.path, "onnx_only": True}
        return preview(BuildOptions(**{**named, **options}))

    before = contents(made.path)
    assert not look().changes
    new = look(out=tmp_path / "new")
    assert (new.components, new.settings, new.changes) == (COMPONENT_NAMES, True, True)
    assert new.estimate.disk > sum(map(len, before.values()))
    assert new.estimate.memory > 1 << 30
    assert new.estimate.seconds > 1
    assert look(force=True).components == COMPONENT_NAMES
    added = look(onnx_only=False, engine="onnxruntime")
    assert (added.components, added.engines, added.settings) == ((), ("cpu onnxruntime fp32",), False)
    assert (look(height=32).settings, look(height=32).components) == (True, ())
    assert contents(made.path) == before
    lose(made, "time_embedder")
    assert look().components == ("time_embedder",)
    assert not (tmp_path / "new").exists()
    other = make_checkpoint(tmp_path / "other", seed=99)
    with pytest.raises(BundleError, match=r"holds the bundle of another checkpoint .*--force"):
        look(checkpoint=str(other))
    assert look(checkpoint=str(other), force=True).components == COMPONENT_NAMES
    with pytest.raises(BundleError, match="exists and is not a bundle"):
        look(out=made.checkpoint)
    for options, said in (
        ({"height": 40}, "height 40"),
        ({"engine": "magic", "onnx_only": False}, "magic"),
        ({"engine": "onnxruntime"}, "engine 'onnxruntime' contradicts onnx_only"),
        ({"precision": "fp32"}, "precision 'fp32' contradicts onnx_only"),
    ):
        with pytest.raises(UsageError, match=said):
            look(**options)


def test_what_is_refused_before_anything_is_made(made: RandomBundle, tmp_path: Path) -> None:
    out = tmp_path / "new"
    for options, kind, said in (
        ({"targets": ("sm_1",)}, UsageError, "sm_1"),
        ({"targets": ("",)}, UsageError, "unknown target ''"),
        ({"precision": "fp16"}, UsageError, "fp16"),
        ({"num_frames": 6}, UsageError, "num_frames 6"),
        ({"width": 10**6}, UsageError, "rope_max_seq_len"),
        ({"checkpoint": str(tmp_path)}, CheckpointError, "model_index.json"),
        ({"revision": "main"}, UsageError, "revision 'main'"),
    ):
        with pytest.raises(kind, match=said):
            rebuild(made, out=out, **options)
    assert not out.exists()


def test_without_the_build_packages(made: RandomBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    lose(made, "time_embedder")
    monkeypatch.setattr("anyflow_rt.build._present", lambda packages: [])
    with pytest.raises(MissingPackageError, match=r"pip install 'anyflow-rt\[build\]'"):
        rebuild(made)


def test_without_transformers_no_other_tokenizer_is_stored(made: RandomBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "transformers" in Bundle.open(made.path).manifest.packages
    Bundle.open(made.path).tokenizer_path.unlink()
    before = contents(made.path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingPackageError, match=r"transformers.*pip install 'anyflow-rt\[build\]'"):
        rebuild(made)
    assert contents(made.path) == before


def test_a_tokenizer_class_that_transformers_lacks(made: RandomBundle, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(made.checkpoint, tmp_path / "checkpoint"))
    index = checkpoint / "model_index.json"
    values = {**json.loads(index.read_text()), "tokenizer": ["transformers", "MagicTokenizer"]}
    index.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="has no tokenizer 'MagicTokenizer'; name one"):
        reference_tokenizer(load_checkpoint(checkpoint), tmp_path)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted(made: RandomBundle, stop: signal.Signals) -> None:
    """What was there stays as it is, no matter how the build ends, and the next build completes it."""
    lose(made, "time_embedder")
    before = contents(made.path)
    command = [sys.executable, "-P", "-m", "anyflow_rt", "build", "--ckpt", str(made.checkpoint), "--out"]
    process = subprocess.Popen(
        [*command, str(made.path), "--onnx-only"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert "this takes up to" in process.stderr.readline()
    assert "exporting time_embedder" in process.stderr.readline()
    process.send_signal(stop)
    out, error = process.communicate(timeout=60)
    if stop == signal.SIGKILL:
        assert process.returncode == -stop
        assert {name: data for name, data in contents(made.path).items() if name in before} == before
    else:
        assert (process.returncode, out) == (1, "")
        assert error.splitlines()[-1].startswith("anyflow-rt build: interrupted; "), error
        assert "Traceback" not in error
        assert contents(made.path) == before
    if stop != signal.SIGTERM:  # completing it takes seconds, and is the same after either
        assert list(rebuild(made).exported) == ["time_embedder"]
        Bundle.open(made.path).verify()
        assert {path.name for path in made.path.parent.iterdir()} <= {"bundle", ".bundle.lock"}


def test_an_interrupted_first_build_leaves_nothing(made: RandomBundle, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    place.mkdir()
    command = [sys.executable, "-P", "-m", "anyflow_rt", "build", "--ckpt", str(made.checkpoint), "--onnx-only"]
    process = subprocess.Popen([*command, "--out", str(place / "new")], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "this takes up to" in process.stderr.readline()
    assert "exporting" in process.stderr.readline()
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 1
    assert {path.name for path in place.iterdir()} <= {".new.lock"}


def test_a_checkpoint_brings_its_calibration(made: RandomBundle, tmp_path: Path) -> None:
    """Into a bundle that has none; of another bundle it is left out, and said so."""
    checkpoint, bundle = tmp_path / "checkpoint", Bundle.open(made.path)
    shutil.copytree(made.checkpoint, checkpoint)
    points, edges = (QualityPoint(4, 0.5, 0.4, 0.6, 8),), (Edge(32, 0, 1.5),)
    measured = Calibration(bundle.id, "motion.explained", True, points, edges)
    for number, each in enumerate((measured, replace(measured, bundle_id="another"))):
        write_calibration(checkpoint / "calibration.json", each)
        out, lines = tmp_path / f"bundle-{number}", []
        shutil.copytree(made.path, out)
        build(BuildOptions(checkpoint=str(checkpoint), out=out, onnx_only=True), lines.append)
        assert not any("latencies were not measured" in line for line in lines), "nothing was built"
        taken = read_calibration(Bundle.open(out).calibration_path, bundle.id)
        assert taken == (measured if number == 0 else None)
        assert any("not taken over" in line for line in lines) == (number == 1)
