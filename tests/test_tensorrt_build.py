"""TensorRT engines, built for real: TensorRT for RTX needs no GPU for it."""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
from functools import cache
from pathlib import Path

import pytest
from support.bundles import random_bundle
from support.shapes_graphs import shapes_architecture, shapes_graph

from anyflow_rt.engines.architecture import Architecture
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.engines.stages import ENCODE, RUN_COMPONENTS
from anyflow_rt.engines.tensorrt.compiler import CompiledEngine, compile_engine
from anyflow_rt.engines.tensorrt.package import PACKAGE_TARGETS, RTX, import_package
from anyflow_rt.engines.tensorrt.profiles import profiles
from anyflow_rt.engines.tensorrt.settings import TensorRtSettings
from anyflow_rt.engines.typed.graph import TypedGraph, write_typed_graph
from anyflow_rt.errors import EngineError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec(RTX) is None,
    reason="needs the package tensorrt_rtx: pip install 'anyflow-rt[tensorrt-rtx]'",
)

SIZE = VideoSize(9, 64, 64)
TARGETS = PACKAGE_TARGETS[RTX]
ONE_LENGTH = TensorRtSettings(prompt_lengths=(32,))
WIDE_TARGET = "sm_89"
"""The target that settings and mistakes are tried on; the others get the shapes checkpoint, and random ones in
``test_tensorrt_targets``."""


@pytest.fixture(scope="module", autouse=True)
def typed_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Typed graphs are shared by the targets of one precision."""
    global _folder
    _folder = tmp_path_factory.mktemp("typed")


@cache
def typed_graph(component: str, graph: Path, precision: str, cross_keys: str) -> TypedGraph:
    place = _folder / f"{graph.parent.parent.name}-{component}-{precision}-{cross_keys}.onnx"
    return write_typed_graph(component, graph, place, precision, cross_keys)


def built(
    folder: Path,
    component: str,
    graph: Path,
    architecture: Architecture,
    target: str,
    settings: TensorRtSettings = ONE_LENGTH,
) -> tuple[TypedGraph, CompiledEngine]:
    typed = typed_graph(component, graph, "fp16" if target == "sm_75" else "bf16", settings.cross_keys)
    wanted = profiles(component, typed.path, architecture, SIZE, settings)
    trt = import_package(RTX)
    return typed, compile_engine(trt, typed.path, folder / f"{component}.engine", target, wanted, settings)


@pytest.mark.parametrize(
    "component, target",
    [
        *((component, target) for component in RUN_COMPONENTS for target in TARGETS),
        *((component, target) for component in ENCODE for target in (WIDE_TARGET, "sm_75")),
    ],
)
def test_the_shapes_checkpoint(component: str, target: str, tmp_path: Path) -> None:
    architecture = shapes_architecture()
    typed, engine = built(tmp_path, component, shapes_graph(component), architecture, target)
    assert engine.size > 100_000
    assert engine.attentions == typed.fused + typed.decomposed
    layers = architecture.transformer.num_layers
    fused = {"denoiser": 2 * layers, "text_encoder": architecture.text_encoder.num_layers}.get(component, 0)
    # What is not marked as decomposable and was built is a fused kernel: anything else fails the build.
    assert typed.fused == fused
    assert typed.decomposed == (1 if component.startswith("vae") else 0), "the VAE's attention has a single head"


def test_a_single_head_is_taken_apart_and_said(tmp_path: Path) -> None:
    bundle = Bundle.open(random_bundle("wide_head").path)
    graph = bundle.component_path("denoiser")
    typed, engine = built(tmp_path, "denoiser", graph, bundle.architecture, WIDE_TARGET)
    assert (typed.fused, typed.decomposed, engine.attentions) == (0, 2, 2)


def test_an_attention_that_is_not_fused_fails_its_build(tmp_path: Path) -> None:
    """What the other tests rely on: without the mark, TensorRT refuses rather than falls back in silence."""
    import onnx

    architecture = shapes_architecture()
    graph = shapes_graph("vae_decoder_first")
    typed = write_typed_graph("vae_decoder_first", graph, tmp_path / "vae.onnx", "bf16")
    model = onnx.load(typed.path)
    (attention,) = (node for node in model.graph.node if node.op_type == "Attention")
    assert attention.attribute.pop().name == "TRT_decomposable"
    onnx.save(model, tmp_path / "unmarked.onnx")
    wanted = profiles("vae_decoder_first", typed.path, architecture, SIZE, ONE_LENGTH)
    with pytest.raises(EngineError, match="not supported by a dedicated kernel"):
        compile_engine(import_package(RTX), tmp_path / "unmarked.onnx", tmp_path / "e", WIDE_TARGET, wanted, ONE_LENGTH)


@pytest.mark.parametrize(
    "settings",
    [
        TensorRtSettings(prompt_lengths=(32, 64)),
        TensorRtSettings(smallest=VideoSize(5, 32, 32), largest=VideoSize(13, 64, 64), prompt_lengths=(32,)),
        TensorRtSettings(cross_keys="all"),
        TensorRtSettings(prompt_lengths=(32,), weight_streaming=True),
        TensorRtSettings(prompt_lengths=(32,), optimization_level=0),
        TensorRtSettings(prompt_lengths=(32,), batch=2),
    ],
    ids=["buckets", "dynamic", "all-keys", "streaming", "level-0", "batch"],
)
def test_settings(settings: TensorRtSettings, tmp_path: Path) -> None:
    bundle = Bundle.open(random_bundle("base").path)
    some = ("conditioner", "denoiser") if settings.cross_keys == "all" else ("denoiser",)
    for component in RUN_COMPONENTS if settings.batch > 1 else some:
        graph = bundle.component_path(component)
        _, engine = built(tmp_path, component, graph, bundle.architecture, WIDE_TARGET, settings)
        assert engine.size > 0


@pytest.mark.parametrize("kernels", ["norms", "all"])
def test_graphs_with_kernels_are_read_and_refused_without_plugins(kernels: str, tmp_path: Path) -> None:
    """TensorRT's parser takes the nodes' functions where it finds no plugin: such an engine is not built in silence."""
    typed = write_typed_graph("denoiser", shapes_graph("denoiser"), tmp_path / "d.onnx", "bf16", kernels=kernels)
    wanted = profiles("denoiser", typed.path, shapes_architecture(), SIZE, ONE_LENGTH)
    count = sum(typed.kernels.values())
    with pytest.raises(EngineError, match=f"took 0 of {count} kernels of d.onnx for plugins; build without"):
        compile_engine(import_package(RTX), typed.path, tmp_path / "e", WIDE_TARGET, wanted, ONE_LENGTH, plugins=count)
    assert not (tmp_path / "e").exists()


def test_progress_is_told_and_an_interrupt_ends_the_build(tmp_path: Path) -> None:
    architecture = shapes_architecture()
    typed = write_typed_graph("conditioner", shapes_graph("conditioner"), tmp_path / "c.onnx", "bf16")
    wanted = profiles("conditioner", typed.path, architecture, SIZE, ONE_LENGTH)
    trt, seen = import_package(RTX), []

    def compile_with(advance) -> CompiledEngine:
        return compile_engine(trt, typed.path, tmp_path / "e", WIDE_TARGET, wanted, ONE_LENGTH, advance=advance)

    compile_with(lambda done, total: seen.append((done, total)))
    assert seen == [(number, seen[0][1]) for number in range(1, seen[0][1] + 1)]

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_with(interrupt)

    told: list[int] = []

    def signalled(done: int, total: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        told.append(done)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            compile_with(signalled)
    finally:
        signal.signal(signal.SIGINT, before)
    assert told == [1], "a signal ends it at the same step, and raises nothing inside TensorRT"


def test_a_full_disk_is_an_os_error(tmp_path: Path) -> None:
    """Raised where TensorRT writes: the bundle's writer then says what is full, and leaves the bundle as it was."""
    typed = write_typed_graph("time_embedder", shapes_graph("time_embedder"), tmp_path / "t.onnx", "bf16")
    wanted = profiles("time_embedder", typed.path, shapes_architecture(), SIZE, ONE_LENGTH)
    with pytest.raises(OSError) as said:
        compile_engine(import_package(RTX), typed.path, Path("/dev/full"), WIDE_TARGET, wanted, ONE_LENGTH)
    assert said.value.errno == errno.ENOSPC


def test_every_parser_error_is_shown(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, (2,))
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (2,)) for name in ("y", "z")]
    nodes = [helper.make_node(f"Unknown{name}", ["x"], [name], domain="nobody") for name in ("y", "z")]
    graph = helper.make_graph(nodes, "g", [value], outputs)
    domains = [helper.make_opsetid("", 23), helper.make_opsetid("nobody", 1)]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=10), tmp_path / "odd.onnx")
    with pytest.raises(
        EngineError, match=r"does not take the graph odd.onnx: .*Unknowny.*Unknownz.*; try another"
    ) as said:
        compile_engine(import_package(RTX), tmp_path / "odd.onnx", tmp_path / "e", WIDE_TARGET, (), ONE_LENGTH)
    assert "\n" not in str(said.value)
