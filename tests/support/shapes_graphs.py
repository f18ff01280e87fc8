"""Graphs of the shipped shapes checkpoint, each exported once for all test processes of a session."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from filelock import FileLock
from support.bundles import session_directory

from anyflow_rt.engines.architecture import Architecture
from anyflow_rt.engines.checkpoint import load_checkpoint
from anyflow_rt.engines.export.components import COMPONENTS, export_component
from anyflow_rt.loading import SHAPES_CHECKPOINT


@cache
def shapes_graph(component: str) -> Path:
    """The float32 ONNX file of one component."""
    folder = session_directory() / "shapes-graphs" / component
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            checkpoint = load_checkpoint(str(SHAPES_CHECKPOINT))
            weights = checkpoint.weights(COMPONENTS[component].network)
            export_component(component, checkpoint.architecture, weights, folder / f"{component}.onnx")
            (folder / "done").touch()
    return folder / f"{component}.onnx"


@cache
def shapes_architecture() -> Architecture:
    return load_checkpoint(str(SHAPES_CHECKPOINT)).architecture
