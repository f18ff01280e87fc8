"""The checkpoints that ship with the package, by the names that stand for them wherever a checkpoint is named."""

from __future__ import annotations

from pathlib import Path

from anyflow_rt.engines.checkpoint_hash import content_hash
from anyflow_rt.engines.checkpoint_parts import located
from anyflow_rt.engines.hub import CONFIG_PATTERNS

SHAPES_CHECKPOINT = Path(__file__).parent / "data" / "shapes"
"""64x64 clips of moving shapes."""
CAUSAL_CHECKPOINT = Path(__file__).parent / "data" / "shapes_causal"
"""The same world, chunk by chunk. It shares VAE, text encoder and tokenizer with the other."""
SHIPPED = {"shapes": SHAPES_CHECKPOINT, "shapes-causal": CAUSAL_CHECKPOINT}


def shipped(name: object) -> Path | None:
    """The directory of a shipped checkpoint; None where ``name`` is none of theirs, or a directory that is here."""
    return SHIPPED.get(name) if isinstance(name, str) and not Path(name).is_dir() else None


def shipped_hash(directory: Path) -> str:
    """``Checkpoint.content_hash`` of a shipped checkpoint, without the packages that ``load_checkpoint`` needs."""
    parts = dict.fromkeys(name.split("/")[0] for name in CONFIG_PATTERNS if "/" in name)
    weights = (path for part in parts for path in located(directory, part).glob("*.safetensors"))
    configs = (path for name in CONFIG_PATTERNS if (path := located(directory, name)).is_file())
    return content_hash(directory, (*configs, *weights))
