"""A checkpoint of any size with random weights, written straight to safetensors: no network is ever in memory.

The VAE, unless another is asked for, the tokenizer and the scheduler are those of the shapes checkpoint; the
text encoder, unless another is asked for, is tiny but for its width, so that what is measured is the denoiser.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyflow_rt.engines.checkpoint_config import read_architecture
from anyflow_rt.engines.checkpoint_shapes import Shape, network_tensors
from anyflow_rt.engines.weights import BASE_NAMES
from anyflow_rt.loading import SHAPES_CHECKPOINT

if TYPE_CHECKING:
    import torch

SHARD_BYTES = 1 << 29
_PART = 1 << 24
"""Numbers that are drawn at a time: one tensor can be a billion."""
WAN_VAE = {
    "base_dim": 96,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "in_channels": 3,
    "out_channels": 3,
    "patch_size": None,
}
"""What Wan 2.1's VAE has otherwise than that of the shapes checkpoint; its latents' statistics are the latter's."""

TINY_TEXT_ENCODER = {"d_ff": 64, "d_kv": 8, "num_heads": 2, "num_layers": 1, "num_decoder_layers": 1}


def write_random_checkpoint(
    directory: Path,
    vae: Mapping[str, Any] | None = None,
    text_encoder: Mapping[str, Any] = TINY_TEXT_ENCODER,
    /,
    **transformer: Any,
) -> Path:
    """Write a checkpoint into the new ``directory``, its denoiser configured by ``transformer``, in bf16 shards.

    Keys of ``transformer``, ``vae`` and ``text_encoder`` not given are those of the shapes checkpoint, whose own VAE is
    taken where ``vae`` is None. The same arguments give the same weights.
    """
    shutil.copytree(SHAPES_CHECKPOINT, directory)
    (directory / "anyflow_rt.json").unlink(missing_ok=True)
    _change(directory / "transformer" / "config.json", **transformer)
    config = json.loads((directory / "transformer" / "config.json").read_text(encoding="utf-8"))
    _change(directory / "text_encoder" / "config.json", d_model=config["text_dim"], **text_encoder)
    random = ["transformer", "text_encoder"]
    if vae is not None:
        _change(directory / "vae" / "config.json", **vae)
        random.append("vae")
    architecture = read_architecture(directory)
    for seed, network in enumerate(random):
        (directory / network / f"{BASE_NAMES[network]}.safetensors").unlink()
        _write_shards(directory / network, BASE_NAMES[network], network_tensors(architecture, network).required, seed)
    return directory


def _change(config: Path, **values: Any) -> None:
    stored = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**stored, **values}, indent=1), encoding="utf-8")


def _write_shards(folder: Path, base: str, shapes: Mapping[str, Shape], seed: int) -> None:
    """Shards of at most ``SHARD_BYTES`` and their index, in the layout that diffusers and transformers write."""
    from safetensors.torch import save_file

    shards = list(_shards(shapes))
    files = [f"{base}-{number + 1:05}-of-{len(shards):05}.safetensors" for number in range(len(shards))]
    for number, (names, file) in enumerate(zip(shards, files, strict=True)):
        tensors = _random_tensors({name: shapes[name] for name in names}, 1000 * seed + number)
        save_file(tensors, folder / file, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": sum(2 * math.prod(shape) for shape in shapes.values())},
        "weight_map": {name: file for names, file in zip(shards, files, strict=True) for name in names},
    }
    (folder / f"{base}.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _shards(shapes: Mapping[str, Shape]) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        count = 2 * math.prod(shape)
        if names and size + count > SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += count
    yield names


def _random_tensors(shapes: Mapping[str, Shape], seed: int) -> dict[str, torch.Tensor]:
    """Normal weights that keep activations of order one; norm gains one, biases and tables small."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes.items():
        if "norm" in name and name.endswith("weight"):
            found[name] = torch.ones(shape, dtype=torch.bfloat16)
            continue
        deviation = 0.1 if len(shape) == 1 or name.endswith("table") else math.prod(shape[1:]) ** -0.5
        found[name] = torch.empty(shape, dtype=torch.bfloat16)
        for part in found[name].view(-1).split(_PART):
            part.copy_(deviation * torch.randn(len(part), generator=generator))
    return found
