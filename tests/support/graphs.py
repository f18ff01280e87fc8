"""Small graphs made by hand, each with the answer in numpy: what every engine must get right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS, WIDTH, HEADS = 4, 16, 2
LATENT = ("B", "F", CHANNELS, "H", "W")
CACHE = ("B", 2, WIDTH)


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


WEIGHTS = {
    "w_in": values(CHANNELS, WIDTH, seed=1) / 2,
    "w_out": values(WIDTH, CHANNELS, seed=2) / 4,
    "table": values(11, WIDTH, seed=3),
    "gain": values(WIDTH, seed=4),
    "w_query": values(WIDTH, WIDTH, seed=5) / 4,
    "w_pixel": values(WIDTH, 3, seed=6) / 4,
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


def flow(latents: np.ndarray, interval: np.ndarray) -> np.ndarray:
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


def text(ids: np.ndarray) -> np.ndarray:
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


def write_graphs(folder: Path) -> dict[str, Path]:
    """The graphs as ONNX files, by name."""
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
