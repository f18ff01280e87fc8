"""One suite over every engine and precision: the same graphs, the same answers, the same refusals.

What holds of the Triton engine as well, which takes packed components and no graphs, is ``support.engine_contract``.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from support.engine_contract import TOLERANCE, EngineContract, Subject, distance
from support.graphs import CHANNELS, GRAPHS, WEIGHTS, WIDTH, flow, text, values, write_graphs

from anyflow_rt.engines import registry
from anyflow_rt.engines.engine import Engine, bfloat16_to_float32
from anyflow_rt.engines.onnx_signature import read_signature
from anyflow_rt.engines.openvino_package import processor_has_bf16
from anyflow_rt.engines.registry import open_engine
from anyflow_rt.errors import EngineError, MissingPackageError, UsageError


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The graphs as files."""
    return write_graphs(tmp_path_factory.mktemp("graphs"))


@pytest.fixture(params=["onnxruntime-fp32", "openvino-fp32", "openvino-bf16"])
def target(request: pytest.FixtureRequest) -> tuple[str, str]:
    """(engine, precision)."""
    name, precision = request.param.split("-")
    if precision == "bf16" and not processor_has_bf16():
        pytest.skip("this processor has no bf16")
    return name, precision


@pytest.fixture
def opened(target: tuple[str, str], graphs: dict[str, Path]):
    """Opens a graph by name in the engine under test, and closes it."""
    engines: list[Engine] = []

    def open_graph(name: str, **options) -> Engine:
        engines.append(open_engine(target[0], graphs[name], precision=target[1], **options))
        return engines[-1]

    yield open_graph
    for engine in engines:
        engine.close()


@pytest.fixture
def subject(target: tuple[str, str], graphs: dict[str, Path]) -> Subject:
    """The small graph's jump."""
    latents, interval = values(2, 3, CHANNELS, 4, 4), np.abs(values(2, 3))
    interval[:, 0] = 0
    arrays = {"latents": latents, "interval": interval}
    return Subject(*target, graphs["flow"], arrays, "moved", flow(latents, interval))


class TestContract(EngineContract):
    """Over the graph engines; ``kernels/test_triton_engine.py`` has the Triton engine's."""


@pytest.mark.parametrize("name", GRAPHS)
def test_signature(opened, name: str) -> None:
    engine = opened(name)
    _, inputs, outputs = GRAPHS[name]
    for specs, wanted in ((engine.inputs, inputs), (engine.outputs, outputs)):
        assert list(specs) == [key for key, _, _ in wanted]
        for key, element, shape in wanted:
            assert specs[key].shape == shape
            assert specs[key].dtype == helper.tensor_dtype_to_np_dtype(element)


@pytest.mark.parametrize("batch, frames, height, width", [(1, 1, 2, 2), (2, 3, 4, 6), (3, 5, 7, 1)])
def test_flow(opened, target, batch: int, frames: int, height: int, width: int) -> None:
    latents, interval = values(batch, frames, CHANNELS, height, width), np.abs(values(batch, frames))
    result = opened("flow").infer(latents=latents, interval=interval)["moved"]
    wanted = flow(latents, interval)
    assert result.dtype == np.float32
    assert distance(result - latents, wanted - latents) < TOLERANCE[target[1]]


@pytest.mark.parametrize("batch, length", [(1, 1), (3, 9)])
def test_text(opened, target, batch: int, length: int) -> None:
    ids = np.random.default_rng(7).integers(0, 11, (batch, length))
    assert distance(opened("text").infer(ids=ids)["embeds"], text(ids)) < TOLERANCE[target[1]]


@pytest.mark.parametrize("compute_type", [(), ("*cache",)])
def test_video_with_caches(opened, target, compute_type: tuple[str, ...]) -> None:
    """A cache goes round, as the graph's own type or as the engine's compute type, and pixels come out as bytes."""
    engine = opened("video", compute_type=compute_type)
    kept = bool(compute_type) and target[1] == "bf16"
    assert engine.inputs["cache"].dtype == (np.uint16 if kept else np.float32)
    assert engine.outputs["next_cache"].dtype == engine.inputs["cache"].dtype
    rows = values(2, 9, WIDTH)
    cache, frames = np.zeros((2, 2, WIDTH), engine.inputs["cache"].dtype), []
    for piece in np.split(rows, 3, axis=1):
        result = engine.infer(rows=piece, cache=cache)
        cache = result["next_cache"]
        frames.append(result["frames"])
    delayed = np.concatenate([np.zeros((2, 2, WIDTH), np.float32), rows[:, :-2]], axis=1)
    wanted = np.round(255 / (1 + np.exp(-delayed @ WEIGHTS["w_pixel"])))
    result = np.concatenate(frames, axis=1)
    assert result.dtype == np.uint8
    assert np.abs(result - wanted).max() <= (1 if target[1] == "fp32" else 3)
    last = bfloat16_to_float32(cache) if kept else cache
    assert distance(last, rows[:, -2:]) < (2**-8 if kept else 1e-7)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (2, 5)])
def test_plain_and_empty(opened, shape: tuple[int, int]) -> None:
    engine = opened("plain")
    x = values(*shape)
    for _ in range(3):
        result = engine.infer(x=x, factor=np.array(2, np.float32))
        np.testing.assert_array_equal(result["product"], 2 * x)
        np.testing.assert_array_equal(result["same"], x)
        np.testing.assert_array_equal(result["constant"], WEIGHTS["gain"])
        assert result["equal"].dtype == np.bool_
        assert result["equal"].all()


def test_outputs_belong_to_the_caller(opened) -> None:
    """Results kept, as arrays or as views, survive later calls, changes of shape and the engine itself."""
    engine = opened("plain")
    kept, wanted = [], []
    for size in (4, 4, 5, 4, 4, 5):
        x = values(size, 3, seed=len(kept))
        result = engine.infer(x=x, factor=np.array(1.5, np.float32))["product"]
        kept.append(result[1:] if len(kept) % 2 else result)
        wanted.append((1.5 * x)[1:] if len(wanted) % 2 else 1.5 * x)
        del result
        gc.collect()
    engine.close()
    for result, value in zip(kept, wanted, strict=True):
        np.testing.assert_array_equal(result, value)


def test_a_failing_graph_is_an_engine_error(opened) -> None:
    engine = opened("clash")
    with pytest.raises(EngineError, match=r"clash\.onnx failed on x \(2, 4\), y \(3, 4\)"):
        engine.infer(x=values(2, 4), y=values(3, 4))
    np.testing.assert_array_equal(engine.infer(x=values(2, 4), y=values(2, 4))["sum"], 2 * values(2, 4))


def test_a_name_that_is_input_and_output(target, graphs: dict[str, Path], tmp_path: Path) -> None:
    """OpenVINO would rename the output; ONNX allows no such graph."""
    model = onnx.load(graphs["clash"])
    model.graph.node[0].output[0] = model.graph.output[0].name = "x"
    onnx.save(model, tmp_path / "twice.onnx")
    with pytest.raises(EngineError, match="x would be both input and output"):
        open_engine(target[0], tmp_path / "twice.onnx", precision=target[1])


def test_threads(opened) -> None:
    opened("text", threads=1).infer(ids=np.zeros((1, 2), np.int64))


def test_signature_of_every_truncation_is_refused(graphs: dict[str, Path], tmp_path: Path) -> None:
    """However a file is cut, reading it ends in EngineError or in a signature, never in anything else."""
    whole = graphs["flow"].read_bytes()
    path = tmp_path / "cut.onnx"
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        try:
            read_signature(path)
        except EngineError:
            continue


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_a_graph_is_no_tensorrt_engine(graphs: dict[str, Path], name: str) -> None:
    with pytest.raises(EngineError, match=r"engine\.json cannot be read .* make it again"):
        open_engine(name, graphs["flow"], precision="bf16")


@pytest.mark.parametrize(
    "name, precision, message",
    [
        ("onxruntime", "fp32", "unknown engine 'onxruntime'; the engines are openvino, onnxruntime"),
        ("openvino", "int8", "'int8' is not yet supported"),
        ("onnxruntime", "int8", "'int8' is not yet supported"),
        ("openvino", "fp32x", "unknown precision 'fp32x'; the precisions are fp32, bf16"),
        ("onnxruntime", "bf16", "no bf16; use --precision fp32"),
        ("openvino", "fp16", "the openvino engine has no fp16; use fp32 or bf16"),
    ],
)
def test_refused_names(graphs: dict[str, Path], name: str, precision: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_engine(name, graphs["flow"], precision=precision)


def test_defaults_without_openvino(graphs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert registry.available_engines() == ("onnxruntime",)
    assert registry.default_engine() == "onnxruntime"
    assert registry.default_precision("onnxruntime") == ("fp32", None)
    with pytest.raises(MissingPackageError, match="pip install openvino"):
        open_engine("openvino", graphs["flow"], precision="fp32")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match="pip install onnxruntime"):
        registry.default_engine()
    with pytest.raises(MissingPackageError, match="pip install onnxruntime"):
        open_engine("onnxruntime", graphs["flow"], precision="fp32")


def test_onnxruntime_reports_nothing(graphs: dict[str, Path], tmp_path: Path) -> None:
    """Its telemetry would leave an identity and a database in the user's cache, and a file in the temporary directory.

    The variables that are taken away would switch it off by themselves.
    """
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_RUNNING_UNIT_TESTS")}
    script = (
        "import os, sys, numpy\n"
        "from anyflow_rt.engines.registry import open_engine\n"
        "with open_engine('onnxruntime', sys.argv[1], precision='fp32') as engine:\n"
        "    engine.infer(ids=numpy.zeros((1, 2), numpy.int64))\n"
        "assert 'ORT_DISABLE_TELEMETRY' not in os.environ"
    )
    subprocess.run(
        [sys.executable, "-P", "-c", script, str(graphs["text"])],
        env={**kept, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
        check=True,
        timeout=60,
    )
    assert not list(tmp_path.rglob("*"))
