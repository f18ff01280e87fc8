"""Random causal checkpoints, and runs of them: through diffusers, and through our loop on our modules in PyTorch.

The modules are those that are exported; running them as they are takes a hundredth of the time that exporting the
graphs of every checkpoint would. ``test_causal_runtime.py`` runs graphs on engines.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.checkpoints import make_checkpoint

from anyflow_rt.conditioning import condition
from anyflow_rt.engines.checkpoint import Checkpoint, load_checkpoint
from anyflow_rt.engines.chunks import ChunkLayout, make_layout
from anyflow_rt.engines.engine import TensorSpec
from anyflow_rt.engines.export.components import COMPONENTS
from anyflow_rt.engines.geometry import VideoSize, latent_size
from anyflow_rt.noise import initial_noise
from anyflow_rt.parity import Case, Reference
from anyflow_rt.prompt import PromptTokenizer
from anyflow_rt.sampling.chunked import Chunk, run_chunks
from anyflow_rt.sampling.executor import Sampling
from anyflow_rt.sampling.guide import PlanGuide
from anyflow_rt.sampling.recorder import RunRecorder
from anyflow_rt.sampling.schedule import uniform_plan

WIDE, SQUARE = (32, 48), (64, 64)
CAUSAL_CONFIGURATIONS: dict[str, tuple[tuple[int, int], dict[str, dict[str, Any]]]] = {
    "released_rule": (WIDE, {"causal": {"chunk_partition": (1, 3, 3, 2), "full_chunk_limit": 3}}),
    "two_at_full_resolution": (
        WIDE,
        {
            "causal": {"chunk_partition": (1, 2, 2, 2), "full_chunk_limit": 2},
            "transformer": {"deltatime_type": "t-r", "num_attention_heads": 3, "attention_head_dim": 12},
        },
    ),
    "four_at_full_resolution": (
        WIDE,
        {
            "causal": {"chunk_partition": (2, 1, 2, 1, 2), "full_chunk_limit": 4},
            "transformer": {"num_layers": 3, "gate_value": 0.6},
            "scheduler": {"shift": 3.0, "num_train_timesteps": 500},
        },
    ),
    "large_compressed_patches": (
        SQUARE,
        {
            "causal": {
                "chunk_partition": (1, 1, 2, 2),
                "full_chunk_limit": 2,
                "compressed_patch_size": (1, 8, 8),
            },
            "transformer": {"num_attention_heads": 1, "attention_head_dim": 64},
        },
    ),
    "single_positions": (
        (32, 32),
        {
            "causal": {"chunk_partition": (1, 2, 1), "full_chunk_limit": 2, "compressed_patch_size": (1, 2, 2)},
            "transformer": {"patch_size": (1, 1, 1), "eps": 1e-3},
        },
    ),
    "cut_compressed_frames": (
        (48, 80),
        {
            "causal": {"chunk_partition": (1, 2, 2), "full_chunk_limit": 2},
            "transformer": {"cross_attn_norm": False, "attention_head_dim": 20},
        },
    ),
    "one_block": (
        WIDE,
        {
            "causal": {"chunk_partition": (1, 2, 1, 2), "full_chunk_limit": 3},
            "transformer": {"num_layers": 1, "num_attention_heads": 1, "attention_head_dim": 24, "gate_value": 0.5},
            "scheduler": {"shift": 1.0},
        },
    ),
    "never_compressed": (WIDE, {"causal": {"chunk_partition": (1, 1, 1, 2), "full_chunk_limit": 5}}),
    "whole_attention_blocks": (
        SQUARE,
        {"causal": {"chunk_partition": (8, 8, 8), "full_chunk_limit": 2}, "transformer": {"num_layers": 1}},
    ),
}
"""Height and width, and what ``make_checkpoint`` takes. The last one's chunks are whole blocks of 128 tokens, so its
queries meet no zero keys."""

PROMPTS = ("a red circle", "the small green star moves right")


class _TorchEngine:
    """A component's module behind what the runtime uses of an engine."""

    def __init__(self, name: str, checkpoint: Checkpoint) -> None:
        component = COMPONENTS[name]
        with torch.no_grad():
            graph = component.graph(checkpoint.architecture, checkpoint.weights(component.network))
        self._module, self._outputs = graph.module.eval(), list(graph.outputs)
        self.inputs = {name: TensorSpec(value.axes, np.dtype(np.float32)) for name, value in graph.inputs.items()}

    def shrink(self) -> None:
        """Nothing is kept."""

    def new_caches(self, prompts: int, shape: tuple[int, ...]) -> None:
        """None: caches are inputs and outputs."""

    def infer(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            found = self._module(**{name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})
        results = found if isinstance(found, tuple) else (found,)
        return {name: result.numpy() for name, result in zip(self._outputs, results, strict=True)}


class TorchComponents:
    """``Components`` of a checkpoint that was never exported."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._engines: dict[str, _TorchEngine] = {}

    def get(self, name: str) -> Any:
        if name not in self._engines:
            self._engines[name] = _TorchEngine(name, self._checkpoint)
        return self._engines[name]


@dataclass
class CausalCheckpoint:
    """One random causal checkpoint and both ways to run it."""

    path: Path
    height: int
    width: int

    @classmethod
    def make(cls, name: str, folder: str | Path | None = None) -> CausalCheckpoint:
        (height, width), parts = CAUSAL_CONFIGURATIONS[name]
        where = Path(tempfile.mkdtemp() if folder is None else folder) / name
        return cls(make_checkpoint(where, seed=len(name), **parts), height, width)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        return load_checkpoint(self.path)

    @cached_property
    def components(self) -> TorchComponents:
        return TorchComponents(self.checkpoint)

    @cached_property
    def reference(self) -> Reference:
        return Reference(self.path)

    @property
    def frames(self) -> int:
        """Latent frames of the checkpoint's own partition."""
        assert self.checkpoint.architecture.causal is not None
        return sum(self.checkpoint.architecture.causal.chunk_partition)

    def layout(self, frames: int, given: int) -> ChunkLayout:
        architecture = self.checkpoint.architecture
        return make_layout(architecture, latent_size(architecture, self._size(frames)), given)

    def context(self, given: int) -> np.ndarray | None:
        """Latents (1, given, C, h, w) as an encoder would make them; None for none."""
        if not given:
            return None
        latent = self.layout(self.frames, 0).latent
        generator = np.random.default_rng(given)
        return generator.standard_normal((1, given, latent.channels, latent.height, latent.width), np.float32)

    def wanted(self, steps: int, given: int = 0, frames: int | None = None, **options: Any) -> np.ndarray:
        """The reference's final latents (N, F, C, h, w)."""
        count = self.frames if frames is None else frames
        context = self.context(given)
        case = Case(PROMPTS[:1], steps, self._size(count), max_sequence_length=32, **options)
        given_latents = None if context is None else torch.from_numpy(context)
        return self.reference.latents(case, self.layout(count, given).partition, given_latents)

    def chunks(
        self,
        steps: int,
        given: int = 0,
        frames: int | None = None,
        *,
        guidance_scale: float = 1.0,
        mean_velocity: bool = True,
        incremental: bool = True,
    ) -> Iterator[Chunk]:
        """Ours, chunk by chunk."""
        architecture = self.checkpoint.architecture
        layout = self.layout(self.frames if frames is None else frames, given)
        latent = layout.latent
        tokenizer = PromptTokenizer(self.checkpoint.tokenizer_file)
        prompts = ["", PROMPTS[0]] if guidance_scale > 1 else [PROMPTS[0]]
        read: Any = self.components
        conditionings = [condition(read, tokenizer([prompt], 32), 32, 1)[0] for prompt in prompts]
        sampling = Sampling(architecture, latent, conditionings, guidance_scale, mean_velocity)
        noise = initial_noise(0, 1, latent.channels, latent.frames, latent.height, latent.width)
        plan = uniform_plan(steps, architecture.scheduler.shift)
        return run_chunks(
            read,
            sampling,
            layout,
            noise,
            self.context(given),
            lambda index: PlanGuide(plan, RunRecorder()),
            incremental=incremental,
        )

    def latents(self, steps: int, given: int = 0, frames: int | None = None, **options: Any) -> np.ndarray:
        """Ours, whole: (1, F, C, h, w)."""
        return np.concatenate([chunk.latents for chunk in self.chunks(steps, given, frames, **options)], axis=1)

    def _size(self, frames: int) -> VideoSize:
        return VideoSize(4 * (frames - 1) + 1, self.height, self.width)
