"""What is OpenVINO's alone: memory used again, compiled models kept, a light import, processors without bf16."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.graphs import CHANNELS, values, write_graphs

from anyflow_rt.engines import openvino, openvino_cache, openvino_package, registry
from anyflow_rt.engines.registry import open_engine
from anyflow_rt.errors import EngineError

LATENTS, INTERVAL = values(2, 3, CHANNELS, 4, 4), values(2, 3)


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The graphs as files."""
    return write_graphs(tmp_path_factory.mktemp("graphs"))


def test_openvino_uses_memory_again(graphs: dict[str, Path]) -> None:
    """A loop that lets go of its last result but one goes round in two buffers."""
    with open_engine("openvino", graphs["flow"], precision="fp32") as engine:
        latents, places = values(1, 2, CHANNELS, 8, 8), []
        for _ in range(8):
            latents = engine.infer(latents=latents, interval=np.ones((1, 2), np.float32))["moved"]
            places.append(latents.ctypes.data)
    assert len(set(places[1:])) == 2


def test_a_processor_without_bf16(graphs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (openvino, openvino_package):
        monkeypatch.setattr(module, "processor_has_bf16", lambda: False)
    precision, note = registry.default_precision("openvino")
    assert precision == "fp32"
    assert "no bf16" in str(note)
    with pytest.raises(EngineError, match="--precision fp32"):
        open_engine("openvino", graphs["flow"], precision="bf16")


def test_compiled_models_are_kept(graphs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    model = tmp_path / "flow.onnx"
    model.write_bytes(graphs["flow"].read_bytes())
    cache, arrays = tmp_path / "cache", {"latents": LATENTS, "interval": INTERVAL}

    def run() -> np.ndarray:
        with open_engine("openvino", model, precision="fp32", cache_dir=cache) as engine:
            return engine.infer(**arrays)["moved"]

    first = run()
    (blob,) = cache.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(openvino.OpenVinoEngine, "_read_model", lambda self, usual: pytest.fail("compiled again"))
        np.testing.assert_array_equal(run(), first)
    blob.write_bytes(blob.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(run(), first)
    assert "does not load" in caplog.text
    model.write_bytes(graphs["flow"].read_bytes())
    ended = subprocess.Popen(["true"])
    ended.wait()
    others = [blob.with_suffix(f".partial-{process}") for process in (os.getppid(), ended.pid)]
    for other in others:
        other.touch()
    run()
    assert [other.exists() for other in others] == [True, False], "what a living process writes stays"
    others[0].unlink()
    (renewed,) = cache.iterdir()
    assert renewed != blob


def test_large_models_are_left_to_openvinos_cache(graphs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_cache, "BLOB_LIMIT", 0)
    results = []
    for _ in range(2):
        with open_engine("openvino", graphs["flow"], precision="fp32", cache_dir=tmp_path / "cache") as engine:
            results.append(engine.infer(latents=LATENTS, interval=INTERVAL)["moved"])
    np.testing.assert_array_equal(*results)
    assert list((tmp_path / "cache").iterdir())


def test_a_cache_that_cannot_be_written_costs_only_time(graphs, tmp_path: Path, caplog) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        engine = open_engine("openvino", graphs["flow"], precision="fp32", cache_dir=tmp_path / "file" / "cache")
    engine.close()
    assert "is not kept" in caplog.text


def test_loading_is_light(graphs: dict[str, Path]) -> None:
    """No heavy package, no telemetry; and what was left out of openvino is still there for whoever asks."""
    script = (
        "import sys\n"
        "from anyflow_rt.engines.registry import open_engine\n"
        f"open_engine('openvino', {str(graphs['flow'])!r}, precision='fp32').close()\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino_telemetry', 'openvino.tools', 'urllib.request'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        f"import openvino; openvino.convert_model({str(graphs['flow'])!r})\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=60)


def test_shrinking_changes_no_result(graphs: dict[str, Path]) -> None:
    arrays = {"latents": LATENTS, "interval": INTERVAL}
    with open_engine("openvino", graphs["flow"], precision="fp32") as engine:
        before = engine.infer(**arrays)["moved"]
        kept = before.copy()
        engine.shrink()
        np.testing.assert_array_equal(engine.infer(**arrays)["moved"], kept)
        np.testing.assert_array_equal(before, kept)


def test_usual_shapes_are_compiled_apart_and_others_still_run(graphs: dict[str, Path], tmp_path: Path) -> None:
    usual = (("latents", (1, 3, CHANNELS, 4, None)),)
    options = {"precision": "fp32", "cache_dir": tmp_path, "usual_shapes": usual, "model_hash": "a"}
    with open_engine("openvino", graphs["flow"], precision="fp32") as plain:
        for width in (4, 6):
            arrays = {"latents": values(1, 3, CHANNELS, 4, width), "interval": values(1, 3)}
            with open_engine("openvino", graphs["flow"], **options) as engine:
                np.testing.assert_allclose(engine.infer(**arrays)["moved"], plain.infer(**arrays)["moved"], rtol=1e-6)
            assert len(list(tmp_path.iterdir())) == 1, "the usual model serves a free size"
        with open_engine("openvino", graphs["flow"], **options) as engine:
            arrays = {"latents": LATENTS, "interval": INTERVAL}
            np.testing.assert_allclose(engine.infer(**arrays)["moved"], plain.infer(**arrays)["moved"], rtol=1e-6)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("usual", [("latents", (1, 3, CHANNELS + 1, 4, 4)), ("nothing", (1,))])
def test_usual_shapes_that_do_not_fit(graphs: dict[str, Path], usual) -> None:
    with pytest.raises(EngineError, match="usual shapes"):
        open_engine("openvino", graphs["flow"], precision="fp32", usual_shapes=(usual,))
