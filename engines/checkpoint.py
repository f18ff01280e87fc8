"""A trained AnyFlow checkpoint in the diffusers layout, from a directory or the Hugging Face hub.

    checkpoint = load_checkpoint("owner/name")
    checkpoint.architecture.transformer.num_layers
    checkpoint.weights("transformer")["patch_embedding.weight"]

Loading reads configuration files and tensor headers, and checks all of them against each other; no network is built
and no weight is read. Weights are safetensors; pickled files are refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from anyflow_rt.engines.architecture import Architecture
from anyflow_rt.engines.checkpoint_config import read_architecture
from anyflow_rt.engines.checkpoint_file import read_json
from anyflow_rt.engines.checkpoint_hash import content_hash
from anyflow_rt.engines.checkpoint_parts import located
from anyflow_rt.engines.checkpoint_shapes import network_tensors
from anyflow_rt.engines.hub import CONFIG_PATTERNS, Source, locate
from anyflow_rt.engines.weights import BASE_NAMES, WeightReader, find_weight_files, weight_patterns
from anyflow_rt.errors import CheckpointError, UsageError

NETWORKS = tuple(BASE_NAMES)
"""transformer, vae, text_encoder."""


@dataclass(frozen=True)
class Checkpoint:
    """``path``: the directory that holds the files. ``id``: what the user called it. ``revision``: a hub id's commit.

    ``tokenizer_file`` is the ``tokenizer.json``. ``weight_files``: for each network its files, an index first.
    """

    path: Path
    id: str
    revision: str | None
    architecture: Architecture
    tokenizer_file: Path
    weight_files: tuple[tuple[str, tuple[Path, ...]], ...]

    def weights(self, component: str) -> WeightReader:
        """The tensors of ``transformer``, ``vae`` or ``text_encoder``. Raises CheckpointError for a damaged file."""
        files = dict(self.weight_files)
        if component not in files:
            raise UsageError(f"a checkpoint has no network {component!r}; there are: {', '.join(files)}")
        return WeightReader(component, files[component], network_tensors(self.architecture, component))

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that a bundle depends on."""
        configs = (path for name in CONFIG_PATTERNS if (path := located(self.path, name)).is_file())
        return (*configs, *(path for _, paths in self.weight_files for path in paths))

    @property
    def weight_bytes(self) -> int:
        """Size of the weights on disk."""
        return sum(path.stat().st_size for _, paths in self.weight_files for path in paths)

    def content_hash(self) -> str:
        """sha256 (hex) over the names and contents of ``files``.

        One or two seconds per gigabyte the first time; see ``checkpoint_hash`` for what is remembered.
        """
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        return content_hash(self.path, self.files)


def load_checkpoint(source: str | Path, *, revision: str | None = None) -> Checkpoint:
    """Open the checkpoint ``source``: a directory, or a hub id (``revision``: branch, tag or commit).

    Raises CheckpointError, in one line that names file, value and mend, where it is absent, damaged, contradictory or
    of a kind that is not supported; UsageError for a ``revision`` of a directory.
    """
    found = locate(source, revision)
    if not (found.path / "model_index.json").is_file():
        raise CheckpointError(_no_checkpoint(found))
    architecture = read_architecture(found.path)
    tokenizer = _find_tokenizer(found, architecture)
    weight_files = []
    for component in NETWORKS:
        found.fetch(weight_patterns(component, variants=False))
        folder = located(found.path, component).parent
        plain = any(any(folder.glob(pattern)) for pattern in weight_patterns(component, variants=False))
        if not plain:
            found.fetch(weight_patterns(component, variants=True))
        weight_files.append((component, find_weight_files(found.path, component)))
    checkpoint = Checkpoint(found.path, found.id, found.revision, architecture, tokenizer, tuple(weight_files))
    for component in NETWORKS:
        checkpoint.weights(component).check()
    return checkpoint


def _no_checkpoint(found: Source) -> str:
    if (found.path.parent / "model_index.json").is_file() and found.repository is None:
        return f"{found.id} is one part of a checkpoint; give its parent directory, {found.path.parent}"
    return (
        f"{found.id} has no model_index.json, so it is no diffusers checkpoint; give the directory or hub id that "
        "holds it beside transformer/, vae/, text_encoder/, scheduler/ and tokenizer/"
    )


def _find_tokenizer(found: Source, architecture: Architecture) -> Path:
    folder = located(found.path, "tokenizer")
    file = folder / "tokenizer.json"
    if not file.is_file():
        found.fetch(("tokenizer/*.model",))
        if any(folder.glob("*.model")):
            raise CheckpointError(
                f"{folder} has a sentencepiece model but no tokenizer.json; make one with  python -c "
                f'"from transformers import AutoTokenizer as T; p = {str(folder)!r}; T.from_pretrained(p)'
                '.save_pretrained(p)"'
            )
        raise CheckpointError(f"{file} is missing; download or export the checkpoint again")
    values = read_json(file)
    tokens = _token_count(values)
    if tokens == 0:
        raise CheckpointError(f"{file} has no model vocabulary, so it is no tokenizer; download it again")
    if tokens > architecture.text_encoder.vocab_size:
        raise CheckpointError(
            f"{file} has {tokens} tokens, but the text encoder's vocab_size is {architecture.text_encoder.vocab_size}; "
            "they do not belong together: take both from the same checkpoint"
        )
    return file


def _token_count(tokenizer: dict[str, Any]) -> int:
    """One more than the highest token id, 0 where that cannot be said: a vocabulary is a list or a table of ids."""
    model, added = tokenizer.get("model"), tokenizer.get("added_tokens") or []
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not vocabulary or not isinstance(vocabulary, list | dict) or not isinstance(added, list):
        return 0
    ids = [*vocabulary.values()] if isinstance(vocabulary, dict) else [len(vocabulary) - 1]
    ids += [token.get("id") if isinstance(token, dict) else None for token in added]
    return 1 + max(ids) if all(isinstance(number, int) for number in ids) else 0
