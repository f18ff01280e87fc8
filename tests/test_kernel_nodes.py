"""Denoisers whose parts are nodes of the domain anyflow: in every block, and equal to those they were made of."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.bundles import random_bundle
from support.checkpoints import CONFIGURATIONS
from support.half import emulate, session
from support.shapes_graphs import shapes_architecture, shapes_graph

from anyflow_rt.engines.architecture import TransformerConfig
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.kernel_nodes.kinds import DOMAIN, KINDS
from anyflow_rt.engines.kernel_nodes.rewrite import expected_nodes, use_kernels
from anyflow_rt.engines.typed.graph import write_typed_graph
from anyflow_rt.errors import EngineError

SHAPES = "the shapes checkpoint"
CAUSAL = "released_rule"
BATCH, FRAMES, ROWS, COLUMNS, KEYS, EARLIER = 2, 3, 2, 4, 7, 5
EXACT = 1e-5
"""Relative error of z_r. Measured: 0 for ``norms`` in every type; 3e-7 with attention, float32."""


@cache
def denoiser(checkpoint: str) -> tuple[Path, TransformerConfig]:
    if checkpoint == SHAPES:
        return shapes_graph("denoiser"), shapes_architecture().transformer
    bundle = Bundle.open(random_bundle(checkpoint).path)
    return bundle.component_path("denoiser"), bundle.architecture.transformer


def jump(path: Path, patch: int) -> np.ndarray:
    """z_r of random inputs; the first frame of each video has no interval."""
    graph, generator = session(path), np.random.default_rng(0)
    sizes = {"B": BATCH, "F": FRAMES, "P": KEYS, "L": FRAMES * ROWS * COLUMNS, "M": EARLIER, "h": ROWS, "w": COLUMNS}
    sizes |= {f"{patch}*h": patch * ROWS, f"{patch}*w": patch * COLUMNS}
    inputs = {
        value.name: generator.standard_normal([sizes.get(size, size) for size in value.shape]).astype(np.float32)
        for value in graph.get_inputs()
    }
    inputs["interval"] = np.array([[0, 0.25, 0.75]] * BATCH, np.float32)
    (answer,) = graph.run(None, inputs)
    assert np.array_equal(answer[:, 0], inputs["latents"][:, 0])
    return answer


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("checkpoint", [SHAPES, *CONFIGURATIONS, CAUSAL])
def test_float32_graphs_are_equal_in_every_block(checkpoint: str, tmp_path: Path) -> None:
    source, config = denoiser(checkpoint)
    wanted = jump(source, config.patch_size[1])
    for kernels in ("norms", "all"):
        made = write_typed_graph("denoiser", source, tmp_path / f"{kernels}.onnx", "fp32", kernels=kernels)
        assert made.kernels == expected_nodes(config.num_layers, config.cross_attn_norm, kernels)
        # ONNX Runtime runs the very file, each node's function is in it; but for a mark on TensorRT's own attention.
        path = made.path if kernels == "all" else emulate(made.path, tmp_path / "unmarked.onnx")
        assert distance(jump(path, config.patch_size[1]), wanted) < EXACT
    assert (made.fused, made.decomposed) == (0, 0), "no attention is left to TensorRT"


@pytest.mark.parametrize(("precision", "cross_keys"), [("bf16", "collapsed"), ("bf16", "all"), ("fp16", "collapsed")])
def test_half_precision_graphs_are_equal(precision: str, cross_keys: str, tmp_path: Path) -> None:
    """Half types are emulated: the same values are rounded in the same places, but for a bias, which is not at all."""
    source, config = denoiser(SHAPES)

    def run(precision: str, kernels: str) -> np.ndarray:
        made = write_typed_graph("denoiser", source, tmp_path / "made.onnx", precision, cross_keys, kernels)
        layers, biased = config.num_layers, cross_keys == "collapsed"
        assert made.kernels == expected_nodes(layers, config.cross_attn_norm, kernels, biased)
        return jump(emulate(made.path, tmp_path / "emulated.onnx"), config.patch_size[1])

    wanted, exact = run(precision, "none"), run("fp32", "none")
    assert distance(run(precision, "norms"), wanted) < EXACT
    assert distance(run(precision, "all"), exact) < 1.25 * distance(wanted, exact), "as near to float32 as without"


def test_types_and_attributes_that_tensorrt_reads(tmp_path: Path) -> None:
    source, _ = denoiser(SHAPES)
    path = write_typed_graph("denoiser", source, tmp_path / "d.onnx", "bf16", kernels="all").path
    onnx.checker.check_model(str(path), full_check=True)
    model = ir.load(path)
    half, full = ir.DataType.BFLOAT16, ir.DataType.FLOAT
    nodes = [node for node in model.graph if node.domain == DOMAIN]
    for node in nodes:
        assert node.attributes["plugin_namespace"].as_string() == DOMAIN and node.attributes["aot"].as_int() == 1
        assert tuple(node.attributes) == (*KINDS[node.op_type].attributes, "plugin_namespace", "aot")
        assert len(node.inputs) == len(KINDS[node.op_type].inputs) and None not in node.inputs
    types = {
        kind: ([value.dtype for value in node.inputs], [value.dtype for value in node.outputs])
        for kind, node in ((node.op_type, node) for node in nodes)
    }
    # Of each kind the last: after the last FFN comes the head, whose product is float32.
    assert types["JoinNorm"] == ([full, half, full, full, full, full], [full, full])
    assert types["JoinAffine"] == ([full, half, full, full, full, full], [full, half])
    assert types["AddNorm"] == ([full, half, full, full], [full, half])
    assert types["QkNormRope"] == ([half, full, full, full, full], [half, half])
    assert types["QueryNorm"] == ([half, full], [half])
    assert types["BiasedAttention"] == ([half, half, half, full], [half])
    assert types["FlowMapUpdate"] == ([full, full, full], [full])
    assert {function.name for function in model.functions.values()} == {node.op_type for node in nodes}


def nodes_of(model: ir.Model, operator: str) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == operator]


def test_a_block_that_does_not_match_is_named(tmp_path: Path) -> None:
    """Each part of the fourth block, made into something else."""
    layer = 3

    def other_perm(model: ir.Model) -> None:
        attention = nodes_of(model, "Attention")[2 * layer]
        user = next(iter(attention.outputs[0].consumers()))
        user.attributes["perm"] = ir.AttrInt64s("perm", [0, 2, 3, 1])

    def gated_by_nothing(model: ir.Model) -> None:
        norm = nodes_of(model, "LayerNormalization")[3 * layer + 1]
        product = norm.inputs[0].producer().inputs[1].producer()
        product.op_type = "Div"

    def other_angle(model: ir.Model) -> None:
        # Each block turns a query and a key, each in two halves.
        halves = [node for node in nodes_of(model, "Split") if node.attributes["axis"].as_int() == 3][2 * layer]
        cos = next(value for value in model.graph.inputs if value.name == "rope_cos")
        for product in halves.outputs[0].consumers():
            product.replace_input_with(1, cos)

    def ungated_norm(model: ir.Model) -> None:
        norm = nodes_of(model, "LayerNormalization")[3 * layer + 2]
        (product,) = norm.outputs[0].consumers()
        product.op_type = "Add"

    def no_step(model: ir.Model) -> None:
        model.graph.outputs[0].producer().op_type = "Add"

    cases = {
        other_perm: "layout in tokens in self-attention of block 3",
        gated_by_nothing: "branch times a row of modulation after self-attention of block 3",
        other_angle: "rotation by one angle in self-attention of block 3",
        ungated_norm: "no Mul after cross-attention of block 3",
        no_step: "no Sub at the end of the jump",
    }
    typed = write_typed_graph("denoiser", denoiser(SHAPES)[0], tmp_path / "d.onnx", "bf16")
    for change, words in cases.items():
        model = ir.load(typed.path)
        change(model)
        with pytest.raises(EngineError, match=f"{words}.*build --force, or build without --triton-kernels"):
            use_kernels(model, "all")


def test_a_graph_of_something_else_is_refused(tmp_path: Path) -> None:
    model = ir.load(shapes_graph("time_embedder"))
    with pytest.raises(EngineError, match="no cross_key of a known number of layers and heads"):
        use_kernels(model, "norms")
    assert use_kernels(model, "none") == {}


def test_other_components_have_no_kernels(tmp_path: Path) -> None:
    typed = write_typed_graph("conditioner", shapes_graph("conditioner"), tmp_path / "c.onnx", "bf16", kernels="all")
    assert typed.kernels == {}
