"""The tokenizer that goes into a bundle: the reference's, as transformers loads it."""

from __future__ import annotations

import json
from pathlib import Path

from anyflow_rt.engines.checkpoint import Checkpoint
from anyflow_rt.errors import CheckpointError, MissingPackageError


def reference_tokenizer(checkpoint: Checkpoint, folder: Path) -> Path:
    """A ``tokenizer.json`` that does what the pipeline's tokenizer does.

    That is not always the checkpoint's own: transformers 5 makes the pre-tokenizer of its T5 classes itself and
    ignores the file's. So the class that ``model_index.json`` names loads it, and what came of it is written below
    ``folder``. Raises MissingPackageError without transformers, CheckpointError where it has no such class or cannot
    load the files.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingPackageError("transformers", "build", "making a bundle's tokenizer") from error
    index = checkpoint.path / "model_index.json"
    _, name = json.loads(index.read_text(encoding="utf-8"))["tokenizer"]
    kind = getattr(transformers, name, None)
    if kind is None:
        raise CheckpointError(
            f"{index}: transformers {transformers.__version__} has no tokenizer {name!r}; name one it has, such as "
            "T5TokenizerFast, or install the version that the checkpoint was made with"
        )
    source = checkpoint.tokenizer_file.parent
    try:
        tokenizer = kind.from_pretrained(source, local_files_only=True)
    except Exception as error:
        raise CheckpointError(
            f"transformers cannot load the tokenizer {source} ({error}); download it again"
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return checkpoint.tokenizer_file
    path = folder / "tokenizer.json"
    backend.save(str(path))
    return path
