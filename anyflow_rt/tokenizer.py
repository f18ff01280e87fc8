"""The tokenizer that goes into a bundle: the reference's, as transformers loads it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from anyflow_rt.engines.checkpoint import Checkpoint
from anyflow_rt.errors import CheckpointError


def reference_tokenizer(checkpoint: Checkpoint, folder: Path) -> Path:
    """A ``tokenizer.json`` that does what the pipeline's tokenizer does.

    That is not always the checkpoint's own: transformers 5 makes the pre-tokenizer of its T5 classes itself and
    ignores the file's. So the class that ``model_index.json`` names loads it, and what came of it is written below
    ``folder``. Without transformers the checkpoint's file is taken as it is.
    """
    if importlib.util.find_spec("transformers") is None:
        return checkpoint.tokenizer_file
    import transformers

    index = json.loads((checkpoint.path / "model_index.json").read_text(encoding="utf-8"))
    _, name = index.get("tokenizer") or ("transformers", "AutoTokenizer")
    source = checkpoint.tokenizer_file.parent
    try:
        tokenizer = getattr(transformers, name or "AutoTokenizer").from_pretrained(source, local_files_only=True)
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
