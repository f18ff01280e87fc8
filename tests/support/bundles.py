"""Bundles of random checkpoints, each built once for all test processes of a session."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from filelock import FileLock
from support.causal import CAUSAL_CONFIGURATIONS
from support.checkpoints import CONFIGURATIONS, make_checkpoint

from anyflow_rt.build import build
from anyflow_rt.build_plan import BuildOptions
from anyflow_rt.parity import Reference


@dataclass(frozen=True)
class RandomBundle:
    """A bundle, the checkpoint it was made from, and that checkpoint in diffusers."""

    path: Path
    checkpoint: Path

    @cached_property
    def reference(self) -> Reference:
        return Reference(self.checkpoint)


@cache
def random_bundle(configuration: str) -> RandomBundle:
    """The bundle of one of ``CONFIGURATIONS`` or ``CAUSAL_CONFIGURATIONS``, graphs only; whoever asks first builds
    it."""
    root = session_directory()
    checkpoint, bundle = root / "checkpoints" / configuration, root / "bundles" / configuration
    checkpoint.parent.mkdir(exist_ok=True)
    with FileLock(root / f"{configuration}.lock"):
        if not checkpoint.is_dir():
            known = CONFIGURATIONS | {name: parts for name, (_, parts) in CAUSAL_CONFIGURATIONS.items()}
            make_checkpoint(checkpoint, seed=len(configuration), **known[configuration])
        # The usual video's 832 pixels are more positions than some rotary tables have; "base" keeps it as its default.
        size = {} if configuration == "base" else {"num_frames": 9, "height": 64, "width": 64}
        if configuration in CAUSAL_CONFIGURATIONS:
            height, width = CAUSAL_CONFIGURATIONS[configuration][0]
            size = {"num_frames": 33, "height": height, "width": width}
        build(BuildOptions(checkpoint=str(checkpoint), out=bundle, onnx_only=True, **size))
    return RandomBundle(bundle, checkpoint)


@cache
def session_directory() -> Path:
    """A directory that the processes of one test session share; conftest.py names and removes it."""
    named = os.environ.get("ANYFLOW_RT_TEST_DIRECTORY")
    directory = Path(named) if named else Path(tempfile.mkdtemp(prefix="anyflow-rt-tests-"))
    directory.mkdir(parents=True, exist_ok=True)
    return directory
