"""Prompt embeddings kept on disk, so that a prompt that was encoded before needs no text encoder: it is not opened.

One file an embedding, ``<key>.embeds``, named by the sha256 of the text encoder's files, engine and precision it ran at
and the prompt's tokens: sha256 of what follows (32 bytes), then the array in NumPy's own format, float32 (tokens, E).
Every entry is checked as it is read; one that is damaged is said, and made again. The folder keeps to ``LIMIT``
bytes: the entries that were used longest ago go first.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anyflow_rt.engines.paths import check_path
from anyflow_rt.prompt import TokenBatch

logger = logging.getLogger(__name__)

LIMIT = 1 << 30
"""Bytes of one folder: a thousand prompts of 64 tokens of the largest encoder known, four thousand numbers wide."""
SUFFIX = ".embeds"
_DIGEST = hashlib.sha256().digest_size


class PromptCache:
    """The embeddings of one text encoder in ``folder``. ``encoder``: the hash of its files. ``width``: E.

    A folder that cannot be written is said once and read all the same. Raises UsageError for a folder that is no path.
    """

    def __init__(
        self, folder: str | Path, encoder: str, engine: str, precision: str, width: int, *, limit: int = LIMIT
    ) -> None:
        self.folder = check_path("the prompt cache", folder, "give a directory, or leave it out")
        self._prefix = f"{encoder} {engine} {precision} ".encode()
        self._width, self._limit = width, limit
        self._writes = True

    def load(self, tokens: TokenBatch) -> np.ndarray | None:
        """Embeddings (batch, longest, E) float32, zero past each prompt's tokens; None unless all prompts are known."""
        found = []
        for ids in _prompts(tokens):
            embeds = self._read(self.path_of(ids), len(ids))
            if embeds is None:
                return None
            found.append(embeds)
        filled = np.zeros((*tokens.input_ids.shape, self._width), np.float32)
        for row, embeds in zip(filled, found, strict=True):
            row[: len(embeds)] = embeds
        return filled

    def store(self, tokens: TokenBatch, embeds: np.ndarray) -> None:
        """Keep what ``load`` did not find; ``embeds`` (batch, longest, E) float32."""
        for ids, row in zip(_prompts(tokens), embeds, strict=True):
            self._write(self.path_of(ids), row[: len(ids)])
        if self._writes:
            self._keep_to_limit()

    def path_of(self, ids: Sequence[int]) -> Path:
        """The entry of one prompt's tokens, whether it is there or not."""
        key = hashlib.sha256(self._prefix + np.asarray(ids, "<i8").tobytes()).hexdigest()
        return self.folder / f"{key}{SUFFIX}"

    def _read(self, path: Path, length: int) -> np.ndarray | None:
        try:
            stored = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("the prompt cache's %s cannot be read (%s); the prompt is encoded again", path, error)
            return None
        embeds = _decoded(stored)
        if embeds is None or embeds.shape != (length, self._width) or embeds.dtype != np.float32:
            logger.warning("the prompt cache's %s is damaged; the prompt is encoded again", path)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used just now, whatever the file system notes of reading
        return embeds

    def _write(self, path: Path, embeds: np.ndarray) -> None:
        if not self._writes:
            return
        text = io.BytesIO()
        np.save(text, np.ascontiguousarray(embeds, np.float32), allow_pickle=False)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".", suffix=SUFFIX, delete=False) as file:
                try:
                    file.write(hashlib.sha256(text.getbuffer()).digest() + text.getbuffer())
                    file.close()
                    os.replace(file.name, path)
                except BaseException:
                    os.unlink(file.name)
                    raise
        except OSError as error:
            self._writes = False
            logger.warning("prompt embeddings are not kept, as %s cannot be written (%s)", self.folder, error)

    def _keep_to_limit(self) -> None:
        entries = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):  # another process may have removed it
                entries.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        excess = sum(size for _, size, _ in entries) - self._limit
        for _, size, path in sorted(entries):
            if excess <= 0:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            excess -= size


def _prompts(tokens: TokenBatch) -> list[list[int]]:
    """The token ids of each prompt, without its padding."""
    lengths = tokens.attention_mask.sum(axis=1)
    return [list(map(int, ids[:length])) for ids, length in zip(tokens.input_ids, lengths, strict=True)]


def _decoded(stored: bytes) -> np.ndarray | None:
    """The array of an entry; None where its contents are not those that were written."""
    digest, text = stored[:_DIGEST], stored[_DIGEST:]
    if hashlib.sha256(text).digest() != digest:
        return None
    try:
        return np.load(io.BytesIO(text), allow_pickle=False)
    except (ValueError, EOFError, OSError):
        return None
