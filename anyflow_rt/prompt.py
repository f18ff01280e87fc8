"""Prompts: cleaned as the reference cleans them, tokenised as its tokenizer does.

Cleaning is the Wan pipelines': mojibake and width repairs by ftfy, HTML entities resolved twice, white space collapsed.
Tokens come from the bundle's ``tokenizer.json`` through ``tokenizers``. The reference pads every prompt to
``max_sequence_length``; here a batch is padded to its longest prompt only, because the positions beyond it are
handled in one piece further on.
"""

from __future__ import annotations

import html
import logging
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anyflow_rt.engines.mend import mend_of
from anyflow_rt.errors import BundleError, UsageError

logger = logging.getLogger(__name__)

SEQUENCE_LENGTH_LIMIT = 2**20
# Printable ASCII, tabs and line feeds, no ampersand: none of ftfy's repairs applies to such text (they concern
# characters beyond ASCII, entities, carriage returns and control characters), so its 0.1 s import can be saved.
NOTHING_TO_FIX = re.compile(r"[\t\n\x20-\x25\x27-\x7e]*")


@dataclass(frozen=True)
class TokenBatch:
    """Token ids and mask, int64 (batch, longest). The mask is 1 on a prompt's tokens and 0 on its padding."""

    input_ids: np.ndarray
    attention_mask: np.ndarray


def clean_prompt(text: str) -> str:
    """The text the reference tokenises for this prompt. May be empty."""
    if not NOTHING_TO_FIX.fullmatch(text):
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text).strip()


def clean_prompts(prompts: str | Sequence[str], *, name: str = "prompt", allow_empty: bool = False) -> list[str]:
    """One prompt or a list or tuple of them, cleaned. ``allow_empty`` is for negative prompts.

    Raises ``UsageError`` naming the value where there is no prompt, one is no string, or one has nothing in it.
    """
    if isinstance(prompts, str):
        items: Sequence[str] = [prompts]
    elif isinstance(prompts, (list, tuple)):
        items = prompts
    else:
        raise UsageError(f"{name} must be a string or a list of strings, not {prompts!r}")
    if not items:
        raise UsageError(f"{name} is an empty list: give at least one prompt")
    cleaned = []
    for index, text in enumerate(items):
        where = name if isinstance(prompts, str) else f"{name}[{index}]"
        if not isinstance(text, str):
            raise UsageError(f"{where} must be a string, not {text!r}")
        cleaned.append(clean_prompt(text))
        if not cleaned[-1] and not allow_empty:
            raise UsageError(f"{where} is empty ({text[:40]!r}): describe the video in words")
    return cleaned


def check_sequence_length(max_sequence_length: object) -> int:
    """The limit as an int. Raises ``UsageError`` unless it is a whole number, at least 1."""
    try:
        value = None if isinstance(max_sequence_length, bool) else operator.index(max_sequence_length)  # type: ignore[arg-type]
    except TypeError:
        value = None
    if value is None or not 1 <= value <= SEQUENCE_LENGTH_LIMIT:
        raise UsageError(
            f"max_sequence_length must be a whole number from 1 to {SEQUENCE_LENGTH_LIMIT}, not {max_sequence_length!r}"
        )
    return value


class PromptTokenizer:
    """Tokenises cleaned prompts with the tokenizer in a ``tokenizer.json``.

    Truncation and padding settings inside the file are not used; only its pad token is, where it names one (else
    ``<pad>``). Raises ``BundleError`` for a file that is missing, is no tokenizer, or has no pad token.
    """

    def __init__(self, path: str | Path) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_str(Path(path).read_text(encoding="utf-8"))
        except Exception as error:  # tokenizers raises bare Exceptions; the message is passed on
            raise BundleError(f"cannot read the tokenizer {path} ({error}); {mend_of(Path(path))}") from error
        padding = self._tokenizer.padding
        self.pad_id = padding["pad_id"] if padding else self._tokenizer.token_to_id("<pad>")
        if self.pad_id is None:
            raise BundleError(f"the tokenizer {path} has no pad token; {mend_of(Path(path))}")
        self._tokenizer.no_padding()

    def longest(self, prompts: Sequence[str], max_sequence_length: int = 512) -> int:
        """Positions that ``__call__`` would give the longest of these prompts; nothing is warned of."""
        self._tokenizer.enable_truncation(max_length=check_sequence_length(max_sequence_length))
        return max([1, *(len(encoding) for encoding in self._tokenizer.encode_batch(list(prompts)))])

    def __call__(self, prompts: Sequence[str], max_sequence_length: int = 512) -> TokenBatch:
        """Tokens of already cleaned prompts, closing token included, at most ``max_sequence_length`` a prompt.

        Longer prompts lose their end and keep the closing token; one warning a call says what was cut.
        """
        # Truncation here rather than in the model: it is the tokenizer that knows which tokens close a prompt.
        self._tokenizer.enable_truncation(max_length=check_sequence_length(max_sequence_length))
        encodings = self._tokenizer.encode_batch(list(prompts))
        cut = [index for index, encoding in enumerate(encodings) if encoding.overflowing]
        if cut:
            _warn_of_truncation(prompts, cut, encodings[cut[0]], max_sequence_length)
        # A tokenizer without a closing token makes nothing of an empty prompt; the encoder needs a position anyway.
        longest = max([1, *(len(encoding) for encoding in encodings)])
        input_ids = np.full((len(encodings), longest), self.pad_id, dtype=np.int64)
        attention_mask = np.zeros((len(encodings), longest), dtype=np.int64)
        for row, encoding in enumerate(encodings):
            input_ids[row, : len(encoding.ids)] = encoding.ids
            attention_mask[row, : len(encoding.ids)] = 1
        return TokenBatch(input_ids, attention_mask)


def _warn_of_truncation(prompts: Sequence[str], cut: list[int], first, max_sequence_length: int) -> None:
    kept = max((stop for _, stop in first.offsets), default=0)
    which = "the prompt is" if len(prompts) == 1 else f"{len(cut)} of {len(prompts)} prompts are"
    logger.warning(
        "%s longer than max_sequence_length=%d tokens; not used: %r",
        which,
        max_sequence_length,
        _shortened(prompts[cut[0]][kept:].strip()),
    )


def _shortened(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
