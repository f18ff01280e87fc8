"""A whole jump of the denoiser, as a bundle's run takes it: packed weights, compiled kernels, one CUDA graph.

Weights and inputs are random: a time does not depend on their values. Before any time is taken, z_r is compared with
that of the exported modules in float32. How far bf16 may be off grows with the number of layers, so the same modules
under PyTorch's own autocast say how far it is for these weights: ours may be off by ``ALLOWANCE`` times as much.

Whatever is not timing runs under the interpreter too, on a small model, and is tested there. No GPU was at hand: what
one runs of this is unverified.
"""

from __future__ import annotations

import gc
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyflow_rt.benchmarks.kernels.parity import Parity, mean_square_error
from anyflow_rt.engines import geometry
from anyflow_rt.engines.architecture import (
    Architecture,
    SchedulerConfig,
    TextEncoderConfig,
    TransformerConfig,
    VaeConfig,
)
from anyflow_rt.engines.checkpoint_shapes import network_tensors
from anyflow_rt.engines.engine import Engine
from anyflow_rt.engines.exact_float32 import exact_float32
from anyflow_rt.engines.geometry import LatentSize
from anyflow_rt.engines.registry import open_engine
from anyflow_rt.engines.torch_pack import Packed, pack_weights
from anyflow_rt.engines.triton_build import compile_launches, jump_launches
from anyflow_rt.kernels.launch import INTERPRETER
from anyflow_rt.kernels.video_shapes import VideoShape

PRECISION = "bf16"
ALLOWANCE = 2.0
PROMPT_POSITIONS = 512
INTERVAL = 0.25


def architecture_of(shape: VideoShape) -> Architecture:
    """A model of the widths of ``shape``; its text encoder and VAE are not run, and have sizes of no meaning."""
    transformer = TransformerConfig(
        patch_size=(1, shape.patch, shape.patch),
        num_attention_heads=shape.heads,
        attention_head_dim=shape.head_dim,
        in_channels=shape.channels,
        out_channels=shape.channels,
        text_dim=shape.heads,
        ffn_dim=shape.ffn,
        num_layers=shape.layers,
    )
    text_encoder = TextEncoderConfig(vocab_size=1, d_model=1, d_kv=1, d_ff=1, num_layers=1, num_heads=1)
    return Architecture("AnyFlowPipeline", transformer, VaeConfig(), text_encoder, SchedulerConfig())


def weights_of(shape: VideoShape) -> list[int]:
    """Numbers in each tensor of a transformer of ``shape``."""
    return [math.prod(each) for each in network_tensors(architecture_of(shape), "transformer").required.values()]


def memory_of(shape: VideoShape) -> int:
    """Bytes that the check takes of a GPU, roughly: float32 weights once, the largest of them four times more, while
    modules are made of them, and a block's activations in float32. The timed engine takes less than half."""
    weights = weights_of(shape)
    activations = shape.length * (12 * shape.width + 3 * shape.ffn)
    return 4 * (sum(weights) + 4 * max(weights) + activations)


def disk_of(shape: VideoShape) -> int:
    """Bytes of the file of packed weights."""
    return 2 * sum(weights_of(shape))


def why_not(shape: VideoShape, memory: int, disk: int) -> str | None:
    """Why a jump at ``shape`` cannot be timed with so many bytes free, None where it can."""
    for needed, free, where in ((memory_of(shape), memory, "of the GPU's memory"), (disk_of(shape), disk, "of disk")):
        if needed > free:
            return f"its check takes {needed / 1e9:.1f} GB {where} and {free / 1e9:.1f} GB are free"
    return None


def free_bytes() -> tuple[int, int]:
    """Of the GPU's memory, what PyTorch keeps for itself given back first; and of the disk that the weights go to."""
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0], shutil.disk_usage(gettempdir()).free


@dataclass(frozen=True)
class Jump:
    """A denoiser on disk, what it is asked, and z_r in float32. ``plain_error``: of PyTorch's bf16 against that."""

    shape: VideoShape
    path: Path
    arrays: dict[str, Any]
    answer: Tensor
    plain_error: float

    def on_device(self, device: str) -> dict[str, Tensor]:
        """The inputs as tensors there, so that a time has no copies of keys in it; a run keeps them there too."""
        return {name: torch.from_numpy(array).to(device) for name, array in self.arrays.items()}

    def parity(self, z_r: np.ndarray) -> Parity:
        """Of an engine's answer: the error of what the jump adds, so that z_t does not hide it."""
        start = torch.from_numpy(self.arrays["latents"])
        error = mean_square_error(torch.from_numpy(z_r) - start, self.answer - start)
        return Parity(error, ALLOWANCE * self.plain_error)


@contextmanager
def prepared(shape: VideoShape, device: torch.device, target: int) -> Iterator[Jump]:
    """A jump at ``shape``, weights and kernels for ``target`` in a folder that goes away afterwards."""
    architecture = architecture_of(shape)
    with TemporaryDirectory(prefix="anyflow-rt-jump-") as folder:
        path = Path(folder) / "denoiser.safetensors"
        arrays = inputs_of(shape, architecture)
        answer, plain_error = _packed_and_answered(architecture, path, arrays, device)
        if target != INTERPRETER:
            latent = LatentSize(shape.frames, shape.channels, *shape.state[3:])
            compile_launches(jump_launches(architecture, latent, target, PRECISION), target, path.parent)
        yield Jump(shape, path, arrays, answer, plain_error)


def opened(jump: Jump) -> Engine:
    """The Triton engine of the denoiser."""
    return open_engine("triton", jump.path, precision=PRECISION)


def inputs_of(shape: VideoShape, architecture: Architecture) -> dict[str, Any]:
    """One video: normal latents, modulation and keys, every frame with the same interval."""
    random, config = np.random.default_rng(0), architecture.transformer

    def normal(*sizes: int, scale: float = 1.0) -> np.ndarray:
        return scale * random.standard_normal(sizes, dtype=np.float32)

    prompt = shape.text - geometry.PAD_KEYS
    keys = (shape.layers, 1, shape.heads, shape.text, shape.head_dim)
    pads = geometry.pad_bias(PROMPT_POSITIONS, prompt, 1)
    tables = geometry.rope_tables(config, (shape.frames, shape.rows, shape.columns))
    return {
        "latents": normal(*shape.state),
        "modulation": normal(1, shape.frames, 6, shape.width, scale=0.1),
        "head_modulation": normal(1, shape.frames, shape.width, scale=0.1),
        "interval": np.full((1, shape.frames), INTERVAL, np.float32),
        "cross_key": normal(*keys),
        "cross_value": normal(*keys),
        "context_bias": np.concatenate([np.zeros((1, prompt), np.float32), pads], axis=1),
        "rope_cos": tables[0],
        "rope_sin": tables[1],
    }


class RandomWeights(Mapping[str, Tensor]):
    """Matrices that keep the size of what goes through them, gains near 1, all else small. Each is made whenever it is
    asked for, the same every time, so that a GPU need not hold them twice."""

    def __init__(self, architecture: Architecture, device: torch.device) -> None:
        self._shapes = network_tensors(architecture, "transformer").required
        self._seeds = {name: seed for seed, name in enumerate(self._shapes)}
        self._device = device

    def __getitem__(self, name: str) -> Tensor:
        shape, generator = self._shapes[name], torch.Generator(self._device).manual_seed(self._seeds[name])
        values = torch.randn(shape, generator=generator, device=self._device)
        if len(shape) > 1 and name.endswith("weight"):
            return values / math.sqrt(math.prod(shape[1:]))
        return 0.1 * values + (1 if "norm" in name and name.endswith("weight") else 0)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def _packed_and_answered(
    architecture: Architecture, path: Path, arrays: dict[str, Any], device: torch.device
) -> tuple[Tensor, float]:
    """Writes the weights; z_r in float32 on the CPU, and the error of PyTorch's bf16. Leaves nothing on the device."""
    weights = RandomWeights(architecture, device)
    tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    with torch.device(device), torch.inference_mode(), exact_float32():
        pack_weights(Packed("denoiser", PRECISION, architecture), weights, path)
        module = Packed("denoiser", "fp32", architecture).with_weights(weights).module.eval()
        answer = module(**tensors).cpu()
        with torch.autocast(device.type, torch.bfloat16):
            plain = module(**tensors).float().cpu()
    start = torch.from_numpy(arrays["latents"])
    del module, tensors
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return answer, mean_square_error(plain - start, answer - start)
