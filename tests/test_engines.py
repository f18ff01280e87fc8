"""One suite over every engine and precision: the same graphs, the same answers, the same refusals."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from anyflow_rt.engines import openvino as openvino_module
from anyflow_rt.engines import registry
from anyflow_rt.engines.engine import Engine, bfloat16_to_float32
from anyflow_rt.engines.onnx_signature import read_signature
from anyflow_rt.engines.registry import open_engine
from anyflow_rt.errors import EngineError, MissingPackageError

TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}
"""||a - b|| / ||b||; bf16 has 8 bits of precision."""

CHANNELS, WIDTH, HEADS = 4, 16, 2
LATENT = ("B", "F", CHANNELS, "H", "W")
CACHE = ("B", 2, WIDTH)


def _values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


WEIGHTS = {
    "w_in": _values(CHANNELS, WIDTH, seed=1) / 2,
    "w_out": _values(WIDTH, CHANNELS, seed=2) / 4,
    "table": _values(11, WIDTH, seed=3),
    "gain": _values(WIDTH, seed=4),
    "w_query": _values(WIDTH, WIDTH, seed=5) / 4,
    "w_pixel": _values(WIDTH, 3, seed=6) / 4,
}
INTEGERS = {"axes_2_3_4": [2, 3, 4], "tail": [-2], "end": [2**62], "axis_1": [1]}


def _flow_nodes() -> list[onnx.NodeProto]:
    """z - interval u, u from two products with the layout changes of a denoiser around them."""
    return [
        helper.make_node("Transpose", ["latents"], ["last"], perm=[0, 1, 3, 4, 2]),
        helper.make_node("MatMul", ["last", "w_in"], ["hidden"]),
        helper.make_node("Gelu", ["hidden"], ["active"], approximate="tanh"),
        helper.make_node("MatMul", ["active", "w_out"], ["velocity_last"]),
        helper.make_node("Transpose", ["velocity_last"], ["velocity"], perm=[0, 1, 4, 2, 3]),
        helper.make_node("Unsqueeze", ["interval", "axes_2_3_4"], ["wide"]),
        helper.make_node("Mul", ["wide", "velocity"], ["change"]),
        helper.make_node("Sub", ["latents", "change"], ["moved"]),
    ]


def _flow(latents: np.ndarray, interval: np.ndarray) -> np.ndarray:
    hidden = np.moveaxis(latents, 2, -1) @ WEIGHTS["w_in"]
    active = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    return latents - interval[:, :, None, None, None] * np.moveaxis(active @ WEIGHTS["w_out"], -1, 2)


def _text_nodes() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Gather", ["table", "ids"], ["embedded"]),
        helper.make_node("RMSNormalization", ["embedded", "gain"], ["normed"], axis=-1, epsilon=1e-6),
        helper.make_node("MatMul", ["normed", "w_query"], ["query"]),
        helper.make_node(
            "Attention", ["query", "normed", "normed"], ["attended"], q_num_heads=HEADS, kv_num_heads=HEADS
        ),
        helper.make_node("Add", ["embedded", "attended"], ["embeds"]),
    ]


def _text(ids: np.ndarray) -> np.ndarray:
    embedded = WEIGHTS["table"][ids]
    normed = embedded / np.sqrt(np.mean(embedded**2, -1, keepdims=True) + 1e-6) * WEIGHTS["gain"]

    def heads(x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:2], HEADS, -1).swapaxes(1, 2)

    query, key = heads(normed @ WEIGHTS["w_query"]), heads(normed)
    logits = query @ key.swapaxes(-1, -2) / np.sqrt(WIDTH // HEADS)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    attended = (weights / weights.sum(-1, keepdims=True)) @ key
    return embedded + attended.swapaxes(1, 2).reshape(embedded.shape)


def _video_nodes() -> list[onnx.NodeProto]:
    """Rows pass to uint8 pixels behind a cache of the two rows before them."""
    return [
        helper.make_node("Concat", ["cache", "rows"], ["joined"], axis=1),
        helper.make_node("Slice", ["joined", "tail", "end", "axis_1"], ["next_cache"]),
        helper.make_node("Slice", ["joined", "zero", "tail", "axis_1"], ["seen"]),
        helper.make_node("MatMul", ["seen", "w_pixel"], ["pixels"]),
        helper.make_node("Sigmoid", ["pixels"], ["unit"]),
        helper.make_node("Mul", ["unit", "white"], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["frames"], to=TensorProto.UINT8),
    ]


def _plain_nodes() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Mul", ["x", "factor"], ["product"]),
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Identity", ["gain"], ["constant"]),
        helper.make_node("Equal", ["x", "x"], ["equal"]),
    ]


def _clash_nodes() -> list[onnx.NodeProto]:
    """Sizes that only the operator itself can find wrong: ONNX cannot say that P must be M."""
    return [helper.make_node("Add", ["x", "y"], ["sum"])]


F32, I64, U8, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8, TensorProto.BOOL
GRAPHS = {
    "flow": (_flow_nodes, [("latents", F32, LATENT), ("interval", F32, ("B", "F"))], [("moved", F32, LATENT)]),
    "text": (_text_nodes, [("ids", I64, ("B", "S"))], [("embeds", F32, ("B", "S", WIDTH))]),
    "video": (
        _video_nodes,
        [("rows", F32, ("B", "T", WIDTH)), ("cache", F32, CACHE)],
        [("frames", U8, ("B", "T", 3)), ("next_cache", F32, CACHE)],
    ),
    "plain": (
        _plain_nodes,
        [("x", F32, ("M", "N")), ("factor", F32, ())],
        [
            ("product", F32, ("M", "N")),
            ("same", F32, ("M", "N")),
            ("constant", F32, (WIDTH,)),
            ("equal", BOOL, ("M", "N")),
        ],
    ),
    "clash": (_clash_nodes, [("x", F32, ("M", "N")), ("y", F32, ("P", "N"))], [("sum", F32, ("M", "N"))]),
}


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The graphs above as ONNX files."""
    folder = tmp_path_factory.mktemp("graphs")
    constants = WEIGHTS | {name: np.array(value, np.int64) for name, value in INTEGERS.items()}
    constants |= {"zero": np.array([0], np.int64), "white": np.array(255, np.float32)}
    paths = {}
    for name, (nodes, inputs, outputs) in GRAPHS.items():
        used = {value for node in nodes() for value in node.input}
        graph = helper.make_graph(
            nodes(),
            name,
            [helper.make_tensor_value_info(*value) for value in inputs],
            [helper.make_tensor_value_info(*value) for value in outputs],
            [numpy_helper.from_array(value, key) for key, value in constants.items() if key in used],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
        onnx.checker.check_model(model)
        paths[name] = folder / f"{name}.onnx"
        onnx.save(model, paths[name])
    return paths


@pytest.fixture(params=["onnxruntime-fp32", "openvino-fp32", "openvino-bf16"])
def target(request: pytest.FixtureRequest) -> tuple[str, str]:
    """(engine, precision)."""
    name, precision = request.param.split("-")
    if precision == "bf16" and not openvino_module.processor_has_bf16():
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


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b))


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
    latents, interval = _values(batch, frames, CHANNELS, height, width), np.abs(_values(batch, frames))
    result = opened("flow").infer(latents=latents, interval=interval)["moved"]
    wanted = _flow(latents, interval)
    assert result.dtype == np.float32
    assert _distance(result - latents, wanted - latents) < TOLERANCE[target[1]]


def test_interval_zero_keeps_every_bit(opened) -> None:
    """Frames with interval 0 come through unchanged, however often the result is fed back."""
    engine = opened("flow")
    start = latents = _values(2, 5, CHANNELS, 8, 8)
    interval = np.full((2, 5), 0.25, np.float32)
    interval[:, :2] = 0
    interval[1] = 0
    for _ in range(4):
        latents = engine.infer(latents=latents, interval=interval)["moved"]
    kept = interval == 0
    assert latents[kept].tobytes() == start[kept].tobytes()
    assert (latents[~kept] != start[~kept]).mean() > 0.99


@pytest.mark.parametrize("batch, length", [(1, 1), (3, 9)])
def test_text(opened, target, batch: int, length: int) -> None:
    ids = np.random.default_rng(7).integers(0, 11, (batch, length))
    assert _distance(opened("text").infer(ids=ids)["embeds"], _text(ids)) < TOLERANCE[target[1]]


@pytest.mark.parametrize("compute_type", [(), ("*cache",)])
def test_video_with_caches(opened, target, compute_type: tuple[str, ...]) -> None:
    """A cache goes round, as the graph's own type or as the engine's compute type, and pixels come out as bytes."""
    engine = opened("video", compute_type=compute_type)
    kept = bool(compute_type) and target[1] == "bf16"
    assert engine.inputs["cache"].dtype == (np.uint16 if kept else np.float32)
    assert engine.outputs["next_cache"].dtype == engine.inputs["cache"].dtype
    rows = _values(2, 9, WIDTH)
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
    assert _distance(last, rows[:, -2:]) < (2**-8 if kept else 1e-7)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (2, 5)])
def test_plain_and_empty(opened, shape: tuple[int, int]) -> None:
    engine = opened("plain")
    x = _values(*shape)
    for _ in range(3):
        result = engine.infer(x=x, factor=np.array(2, np.float32))
        np.testing.assert_array_equal(result["product"], 2 * x)
        np.testing.assert_array_equal(result["same"], x)
        np.testing.assert_array_equal(result["constant"], WEIGHTS["gain"])
        assert result["equal"].dtype == np.bool_
        assert result["equal"].all()


def test_awkward_inputs_are_read_and_left_alone(opened) -> None:
    """Strided, broadcast and read-only arrays are inputs like any other."""
    engine = opened("plain")
    base = _values(6, 8)
    read_only = base.copy()
    read_only.flags.writeable = False
    for x in (base.T, base[::2, ::-1], np.broadcast_to(base[:1], (3, 8)), read_only):
        before = x.copy()
        result = engine.infer(x=x, factor=np.array(3, np.float32))
        np.testing.assert_array_equal(result["product"], 3 * before)
        result["same"][...] = 0
        np.testing.assert_array_equal(x, before)


def test_outputs_belong_to_the_caller(opened) -> None:
    """Results kept, as arrays or as views, survive later calls, changes of shape and the engine itself."""
    engine = opened("plain")
    kept, wanted = [], []
    for size in (4, 4, 5, 4, 4, 5):
        x = _values(size, 3, seed=len(kept))
        result = engine.infer(x=x, factor=np.array(1.5, np.float32))["product"]
        kept.append(result[1:] if len(kept) % 2 else result)
        wanted.append((1.5 * x)[1:] if len(wanted) % 2 else 1.5 * x)
        del result
        gc.collect()
    engine.close()
    for result, value in zip(kept, wanted, strict=True):
        np.testing.assert_array_equal(result, value)


def test_openvino_uses_memory_again(graphs: dict[str, Path]) -> None:
    """A loop that lets go of its last result but one goes round in two buffers."""
    with open_engine("openvino", graphs["flow"], precision="fp32") as engine:
        latents, places = _values(1, 2, CHANNELS, 8, 8), []
        for _ in range(8):
            latents = engine.infer(latents=latents, interval=np.ones((1, 2), np.float32))["moved"]
            places.append(latents.ctypes.data)
    assert len(set(places[1:])) == 2


def test_closed(opened) -> None:
    engine = opened("text")
    ids = np.zeros((1, 2), np.int64)
    with engine as same:
        assert same is engine
        engine.infer(ids=ids)
    engine.close()
    with pytest.raises(EngineError, match=r"after close\(\)"):
        engine.infer(ids=ids)


LATENTS, INTERVAL = _values(2, 3, CHANNELS, 4, 4), _values(2, 3)


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"latents": LATENTS}, "missing: interval; its inputs are latents, interval"),
        ({"latents": LATENTS, "interval": INTERVAL, "steps": 4}, "unknown: steps"),
        ({"latents": LATENTS, "intervall": INTERVAL}, "missing: interval; unknown: intervall"),
        ({"latents": [1.0], "interval": INTERVAL}, "latents is a list; an array of float32"),
        ({"latents": LATENTS.astype(float), "interval": INTERVAL}, "latents is float64; float32 is needed"),
        ({"latents": LATENTS[0], "interval": INTERVAL}, r"4 dimensions \(3, 4, 4, 4\); 5 are needed"),
        ({"latents": LATENTS[:, :, :3], "interval": INTERVAL}, "size 3 on axis 2; 4 is needed"),
        ({"latents": LATENTS, "interval": INTERVAL[:, :2]}, r"interval has size 2 on axis 1 \(F\); latents has 3"),
    ],
)
def test_wrong_arrays(opened, arrays: dict, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        opened("flow").infer(**arrays)


def test_a_failing_graph_is_an_engine_error(opened) -> None:
    engine = opened("clash")
    with pytest.raises(EngineError, match=r"clash\.onnx failed on x \(2, 4\), y \(3, 4\)"):
        engine.infer(x=_values(2, 4), y=_values(3, 4))
    np.testing.assert_array_equal(engine.infer(x=_values(2, 4), y=_values(2, 4))["sum"], 2 * _values(2, 4))


@pytest.mark.parametrize("content", [b"", b"not a graph", "half"])
def test_damaged_model(target, graphs: dict[str, Path], tmp_path: Path, content) -> None:
    path = tmp_path / "model.onnx"
    whole = graphs["flow"].read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(EngineError, match=r"model\.onnx"):
        open_engine(target[0], path, precision=target[1])
    with pytest.raises(EngineError, match="no model at"):
        open_engine(target[0], tmp_path / "none.onnx", precision=target[1])


def test_threads(opened) -> None:
    opened("text", threads=1).infer(ids=np.zeros((1, 2), np.int64))
    with pytest.raises(EngineError, match="threads is 0"):
        opened("text", threads=0)


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


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx", "triton"])
def test_planned_engines(graphs: dict[str, Path], name: str) -> None:
    with pytest.raises(EngineError, match="not yet supported; the engines are openvino, onnxruntime"):
        open_engine(name, graphs["flow"], precision="fp32")


@pytest.mark.parametrize(
    "name, precision, message",
    [
        ("onxruntime", "fp32", "unknown engine 'onxruntime'; the engines are openvino, onnxruntime"),
        ("openvino", "int8", "'int8' is not yet supported"),
        ("onnxruntime", "int8", "'int8' is not yet supported"),
        ("openvino", "fp32x", "unknown precision 'fp32x'; the precisions are fp32, bf16"),
        ("onnxruntime", "bf16", "no bf16; use --precision fp32"),
    ],
)
def test_refused_names(graphs: dict[str, Path], name: str, precision: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
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


def test_a_processor_without_bf16(graphs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_module, "processor_has_bf16", lambda: False)
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
        patch.setattr(openvino_module.OpenVinoEngine, "_read_model", lambda self: pytest.fail("compiled again"))
        np.testing.assert_array_equal(run(), first)
    blob.write_bytes(blob.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(run(), first)
    assert "does not load" in caplog.text
    model.write_bytes(graphs["flow"].read_bytes())
    run()
    (renewed,) = cache.iterdir()
    assert renewed != blob


def test_large_models_are_left_to_openvinos_cache(graphs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_module, "BLOB_LIMIT", 0)
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
