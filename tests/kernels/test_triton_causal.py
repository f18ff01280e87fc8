"""Causal checkpoints on the Triton engine: chunks over a cache that is written and read in place."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.causal import CausalCheckpoint
from support.kernels import DEVICE

from anyflow_rt.engines.engine import Engine
from anyflow_rt.engines.export import component_names
from anyflow_rt.engines.registry import open_engine
from anyflow_rt.engines.torch_pack import Packed, pack_component, pack_header
from anyflow_rt.engines.triton import TritonEngine
from anyflow_rt.errors import EngineError, UsageError
from anyflow_rt.parity import LATENT_BOUND
from anyflow_rt.components import COMPUTE_TYPE_PORTS


class TritonComponents:
    """``Components`` of a checkpoint that is packed in ``folder``, one precision, opened as they are asked for."""

    def __init__(self, folder: Path, precision: str = "fp32") -> None:
        self.folder, self.precision = folder, precision
        self.engines: dict[str, Engine] = {}

    def get(self, name: str) -> Any:
        if name not in self.engines:
            self.engines[name] = open_engine(
                "triton",
                self.folder / f"{name}.safetensors",
                precision="fp32" if name == "time_embedder" else self.precision,
                compute_type=COMPUTE_TYPE_PORTS,
            )
        return self.engines[name]

    def close(self) -> None:
        for engine in self.engines.values():
            engine.close()
        self.engines.clear()


def packed(made: CausalCheckpoint, precision: str = "fp32") -> Path:
    folder = made.path.parent / f"packed-{precision}"
    folder.mkdir()
    for name in component_names(made.checkpoint.architecture):
        if name == "text_encoder" or not name.startswith("vae"):
            one = Packed(name, "fp32" if name == "time_embedder" else precision, made.checkpoint.architecture)
            path = folder / f"{name}.safetensors"
            pack_header(one, path) if name == "cache_writer" else pack_component(one, made.checkpoint, path)
    return folder


@pytest.mark.parametrize(("name", "steps", "given"), [("one_block", 2, 0), ("one_block", 1, 3), ("single_positions", 1, 1)])
def test_chunks(name: str, steps: int, given: int, tmp_path: Path) -> None:
    made = CausalCheckpoint.make(name, tmp_path)
    wanted = made.latents(steps, given)
    components = TritonComponents(packed(made))
    made.__dict__["components"] = components
    found = made.latents(steps, given)
    components.close()
    error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    print("error", error)
    assert error < LATENT_BOUND
