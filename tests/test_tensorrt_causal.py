"""Causal checkpoints on TensorRT engines: what they take of a video, built for real, and how exact they are."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bundles import RandomBundle, random_bundle
from support.causal import CausalCheckpoint
from support.commands import fails
from support.half_causal import HalfComponents
from support.shapes_graphs import CAUSAL_BLOCKS, causal_shapes, causal_shapes_graph

from anyflow_rt.admission import admit
from anyflow_rt.cli.main import main
from anyflow_rt.engines.architecture import Architecture, CausalConfig
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.chunks import make_layout
from anyflow_rt.engines.geometry import LatentSize, VideoSize
from anyflow_rt.engines.stages import CHUNKS, engine_components
from anyflow_rt.engines.tensorrt.chunk_shapes import largest_chunk
from anyflow_rt.engines.tensorrt.compiler import compile_engine
from anyflow_rt.engines.tensorrt.limits import check_call
from anyflow_rt.engines.tensorrt.package import RTX, import_package
from anyflow_rt.engines.tensorrt.profiles import profiles
from anyflow_rt.engines.tensorrt.record import EngineFacts, read_facts
from anyflow_rt.engines.tensorrt.settings import TensorRtSettings
from anyflow_rt.engines.typed.graph import write_typed_graph
from anyflow_rt.errors import UsageError
from anyflow_rt.shipped import CAUSAL_CHECKPOINT

NAME = "released_rule"
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec(RTX) is None,
    reason="needs the package tensorrt_rtx: pip install 'anyflow-rt[tensorrt-rtx]'",
)
BOUND = {"bf16": 0.004, "fp16": 0.002}
"""Relative error of a whole video's latents, made by these two blocks; docs/gpu.md has that of all six."""


@pytest.fixture
def made(tmp_path: Path) -> RandomBundle:
    shared = random_bundle(NAME)
    return RandomBundle(Path(shutil.copytree(shared.path, tmp_path / "bundle")), shared.checkpoint)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_no_chunk_is_larger_than_the_largest(data: st.DataObject) -> None:
    """Of any video that is not longer than the engine's, whatever it begins with; nor any that is written."""
    chunks = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)))
    causal = CausalConfig(chunks, data.draw(st.integers(2, 5)))
    architecture = replace(random_architecture(), causal=causal)
    most = data.draw(st.integers(1, 30))
    frames = data.draw(st.integers(1, most))
    context = data.draw(st.integers(0, frames))
    largest = largest_chunk(architecture, LatentSize(most, 16, 8, 12))
    layout = make_layout(architecture, LatentSize(frames, 16, 8, 12), context)
    for index in range(len(layout)):
        assert layout.partition[index] <= largest.frames
        assert layout.seen(index) + layout.padding(index) <= largest.cached
    for finished in range(1, len(layout)):
        seen = 0
        for index in range(finished):
            assert seen <= largest.cached
            seen += layout.tokens(index, far=index < layout.compressed(finished))


def test_chunks_that_are_longer_than_the_largest_are_refused(tmp_path: Path) -> None:
    """In a range of sizes a small video may be long enough for chunks that no profile has, and remember little."""
    architecture = replace(causal_shapes().architecture, causal=CausalConfig((1, 3, 3), 3, (1, 4, 4)))
    largest = largest_chunk(architecture, LatentSize(2, 16, 8, 8))
    shapes = {
        end: {"latents": (1, frames, 16, side, side), "cache_key": (1, 1, 1, cached, 8)}
        for end, frames, side, cached in (("smallest", 1, 4, 0), ("usual", 2, 8, 64), ("largest", 2, 8, largest.cached))
    }
    parts: dict[str, dict[str, object]] = {"denoiser": {"profiles": [shapes]}}
    facts = EngineFacts(RTX, "1.7.1", "sm_89", "bf16", asdict(TensorRtSettings()), parts)
    call = {"videos": 1, "max_sequence_length": 512, "given": False, "architecture": architecture}
    small = LatentSize(4, 16, 4, 4)
    assert largest_chunk(architecture, small).cached < largest.cached
    check_call(facts, tmp_path / "denoiser.engine", replace(small, frames=2), **call)
    with pytest.raises(
        UsageError, match=r"chunks of up to 2 latent frames and a video of 4 has chunks of 3; ask for f"
    ):
        check_call(facts, tmp_path / "denoiser.engine", small, **call)
    with pytest.raises(UsageError, match=r"remembers up to \d+ tokens .* 2 latent frames may need \d+; ask"):
        shapes["largest"]["cache_key"] = (1, 1, 1, largest.cached - 1, 8)
        check_call(facts, tmp_path / "denoiser.engine", LatentSize(2, 16, 8, 8), **call)


@cache
def random_architecture() -> Architecture:
    return Bundle.open(random_bundle(NAME).path).architecture


@needs_rtx
def test_every_component_is_built(made: RandomBundle, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["build", "--ckpt", str(made.checkpoint), "--out", str(made.path), "--prompt-lengths", "32"]
    fails(capsys, [*command, "--target", "sm_89", "--height", "16"], "height 16 is less than one compressed patch")
    enterprise = ["--engine", "tensorrt", "--triton-kernels", "norms"]
    fails(capsys, [*command, "--target", "sm_89", *enterprise], "norms take no caches of a causal (FAR) checkpoint")
    assert main([*command, "--target", "sm_89", "--engine", RTX, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["compiled"] == ["sm_89 tensorrt_rtx bf16"]
    bundle = Bundle.open(made.path)
    (record,) = bundle.manifest.engines
    facts = read_facts(bundle.engine_path(record, "denoiser").parent)
    assert tuple(facts.components) == engine_components(bundle.architecture)
    fused = {name: (part["fused"], part["decomposed"]) for name, part in facts.components.items()}
    layers = bundle.architecture.transformer.num_layers
    # Of the last block the writer needs what comes before its attentions.
    assert fused["denoiser"] == (2 * layers, 0) and fused["cache_writer"] == (2 * (layers - 1), 0)
    (profile,) = facts.components["cache_writer"]["profiles"]
    assert profile["smallest"]["cache_key"][3] == 0, "the first chunk is written of itself alone"

    asked = {"engine": RTX, "precision": "bf16", "output": "frames", "record": record}
    for options in ({}, {"num_frames": 17}, {"image": np.zeros((32, 48, 3), np.uint8)}):
        assert admit(bundle, "a", **asked, **options).videos == 1
    with pytest.raises(UsageError, match=r"remembers up to \d+ tokens .* video of 10 latent frames may need \d+; ask"):
        admit(bundle, "a", **asked, num_frames=37)
    with pytest.raises(UsageError, match=r"up to 33 frames of 32x48 pixels .* and 33 frames of 32x64 pixels"):
        admit(bundle, "a", **asked, width=64)
    fails(capsys, ["run", "--bundle", str(made.path), "--prompt", "a", "--engine", RTX], "needs an NVIDIA GPU", code=1)


@needs_rtx
@pytest.mark.parametrize(
    "component, target, chosen",
    [
        ("denoiser", "sm_89", TensorRtSettings(prompt_lengths=(32,))),
        ("cache_writer", "sm_89", TensorRtSettings(prompt_lengths=(32,))),
        ("denoiser", "sm_75", TensorRtSettings(prompt_lengths=(32,))),
        ("cache_writer", "sm_89", TensorRtSettings(cross_keys="all", batch=2)),
        (
            "denoiser",
            "sm_89",
            TensorRtSettings(smallest=VideoSize(5, 32, 32), largest=VideoSize(33, 64, 64), prompt_lengths=(32, 64)),
        ),
    ],
    ids=["denoiser", "writer", "fp16", "all-keys", "dynamic"],
)
def test_the_causal_shapes_checkpoint(component: str, target: str, chosen: TensorRtSettings, tmp_path: Path) -> None:
    architecture, precision = causal_shapes().architecture, "fp16" if target == "sm_75" else "bf16"
    graph = causal_shapes_graph(component)
    typed = write_typed_graph(component, graph, tmp_path / "typed.onnx", precision, chosen.cross_keys)
    wanted = profiles(component, typed.path, architecture, VideoSize(17, 64, 64), chosen)
    engine = compile_engine(import_package(RTX), typed.path, tmp_path / "e.engine", target, wanted, chosen)
    fused = 2 * CAUSAL_BLOCKS if component == "denoiser" else 2 * (CAUSAL_BLOCKS - 1)
    assert (typed.fused, typed.decomposed, engine.attentions) == (fused, 0, fused)


@pytest.mark.parametrize("precision", BOUND)
def test_videos_are_near_those_in_float32(precision: str, tmp_path: Path) -> None:
    """Chunks attend to what half-precision graphs wrote of chunks that half-precision graphs made."""
    exact, half = (CausalCheckpoint(CAUSAL_CHECKPOINT, 64, 64) for _ in range(2))
    for each in (exact, half):
        each.__dict__["checkpoint"] = causal_shapes()
    half.__dict__["components"] = HalfComponents(causal_shapes(), causal_shapes_graph, tmp_path, precision)
    errors = {}
    for steps, frames in ((1, 5), (4, 5), (1, 15)):
        found, wanted = half.latents(steps, frames=frames), exact.latents(steps, frames=frames)
        errors[steps, frames] = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
    print(precision, errors)
    assert max(errors.values()) < BOUND[precision], errors
    assert min(errors.values()) > 1e-4, f"the emulation rounds nothing: {errors}"


def test_what_is_written_is_half_what_makes_tokens_is_not(tmp_path: Path) -> None:
    from onnx import TensorProto, load

    for component in CHUNKS:
        graph = load(
            write_typed_graph(component, causal_shapes_graph(component), tmp_path / f"{component}.onnx", "bf16").path,
            load_external_data=False,
        ).graph
        types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
        wanted = {name: TensorProto.BFLOAT16 if name in HALF else TensorProto.FLOAT for name in types}
        assert types == wanted


HALF = ("cross_key", "cross_value", "cache_key", "cache_value", "next_cache_key", "next_cache_value")
