"""Graphs of the shipped shapes checkpoints, each exported once for all test processes of a session."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from filelock import FileLock
from support.bundles import session_directory

from anyflow_rt.engines.architecture import Architecture
from anyflow_rt.engines.checkpoint import Checkpoint, load_checkpoint
from anyflow_rt.engines.export.components import COMPONENTS, export_component
from anyflow_rt.loading import SHAPES_CHECKPOINT
from anyflow_rt.shipped import CAUSAL_CHECKPOINT

CAUSAL_BLOCKS = 2
"""Of the causal checkpoint's six, which are alike: exporting them all takes half a minute. 6 gives docs/gpu.md's
figures."""


@cache
def shapes_graph(component: str) -> Path:
    """The float32 ONNX file of one component."""
    return _exported(component, load_checkpoint(str(SHAPES_CHECKPOINT)), "shapes-graphs")


@cache
def shapes_architecture() -> Architecture:
    return load_checkpoint(str(SHAPES_CHECKPOINT)).architecture


@cache
def causal_shapes_graph(component: str) -> Path:
    """The same of the causal checkpoint's first blocks."""
    return _exported(component, causal_shapes(), "causal-shapes-graphs")


@cache
def causal_shapes() -> Checkpoint:
    """The causal checkpoint with its first blocks alone."""
    checkpoint = load_checkpoint(str(CAUSAL_CHECKPOINT))
    transformer = replace(checkpoint.architecture.transformer, num_layers=CAUSAL_BLOCKS)
    return replace(checkpoint, architecture=replace(checkpoint.architecture, transformer=transformer))


def _exported(component: str, checkpoint: Checkpoint, name: str) -> Path:
    folder = session_directory() / name / component
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            weights = checkpoint.weights(COMPONENTS[component].network)
            export_component(component, checkpoint.architecture, weights, folder / f"{component}.onnx")
            (folder / "done").touch()
    return folder / f"{component}.onnx"
