"""How a bundle's text encoder keeps its weights: as the checkpoint stores them, or as 8-bit integers."""

from __future__ import annotations

from collections.abc import Iterable

from anyflow_rt.engines.manifest import ComponentRecord
from anyflow_rt.errors import UsageError

STORED, INT8 = TEXT_WEIGHTS = ("stored", "int8")
INT8_RECORD = "text_encoder.int8.json"
"""Beside the graph whose weights are integers: what was made such, and how far off the weights are."""


def check_text_weights(text_weights: str | None) -> None:
    """Raise UsageError for a name that is none; None is no choice."""
    if text_weights is not None and text_weights not in TEXT_WEIGHTS:
        raise UsageError(f"unknown text_weights {text_weights!r}; choose from {', '.join(TEXT_WEIGHTS)}")


def text_weights_of(components: Iterable[ComponentRecord]) -> str:
    """Of the text encoder among ``components``; ``stored`` where there is none."""
    files = [file.path for part in components if part.name == "text_encoder" for file in part.files]
    return INT8 if any(path.endswith(f"/{INT8_RECORD}") for path in files) else STORED
