"""What a sweep has measured so far, one JSON line each, so that an interrupt or a crash costs one sample at most.

The first line says which sweep it is. A journal of another sweep is not gone on with, and none that holds a sample is
overwritten. A last line that was cut off is dropped; a journal without a sample is none, and is not left behind.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from anyflow_rt.errors import OutputError, UsageError

NAME = "samples.jsonl"
CONTEXT, FAULT = "context", "fault"
"""Kinds that are no samples: the programs that measured, and why times mean nothing."""
Key = tuple[Any, ...]


class Journal:
    """Samples by (kind, key). Use as a context manager; ``finish`` removes the file."""

    def __init__(self, path: Path, sweep: Mapping[str, Any], *, resume: bool) -> None:
        """Open, or begin, the journal of ``sweep`` (plain JSON values that say what is measured, and of what).

        Raises UsageError where there is one already and ``resume`` is not asked for, or the other way round, or where
        it is another sweep's or damaged; OutputError where it cannot be read or written.
        """
        self.path = path
        self._found: dict[str, dict[Key, Any]] = {}
        header = json.loads(json.dumps(sweep))
        try:
            lines = self._whole_lines()
            if resume and lines is None:
                raise UsageError(f"there is nothing to go on with in {path.parent}; leave out --resume")
            if lines is not None and len(lines) > 1:
                self._read(lines, header, resume)
                self._file = path.open("a", encoding="utf-8")
            else:
                self._file = path.open("w", encoding="utf-8")
                self._write(header)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}; give another --report") from error

    def get(self, kind: str) -> dict[Key, Any]:
        """Every sample of a kind so far, in the order measured."""
        return self._found.setdefault(kind, {})

    def add(self, kind: str, key: Key, value: Any) -> None:
        """Keep one sample: it is on the disk when this returns. Raises OutputError."""
        try:
            self._write([kind, list(key), value])
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}; what was measured is kept") from error
        self.get(kind)[key] = value

    @property
    def samples(self) -> int:
        """How many there are."""
        return sum(len(found) for kind, found in self._found.items() if kind not in (CONTEXT, FAULT))

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Give a KeyboardInterrupt inside the words that say how to go on, where there is something to go on with."""
        try:
            yield
        except KeyboardInterrupt as error:
            if not self.samples:
                raise
            kept = f"{self.samples} samples are kept in {self.path}; go on with --resume"
            raise KeyboardInterrupt(kept) from error

    def finish(self) -> None:
        """Remove the file: what it held is in a report."""
        self.__exit__(None, None, None)
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if not self.samples:
            self.path.unlink(missing_ok=True)

    def _write(self, value: Any) -> None:
        self._file.write(json.dumps(value, separators=(",", ":")) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _whole_lines(self) -> list[str] | None:
        """The lines of the file that is there, without one that was cut off; None where there is no file."""
        try:
            return self.path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
        except FileNotFoundError:
            return None

    def _read(self, lines: list[str], header: Any, resume: bool) -> None:
        if not resume:
            raise UsageError(
                f"{self.path} holds what an interrupted run measured; go on with --resume, or remove the file to begin "
                "anew"
            )
        first = self._parse(lines[0], 1)
        if first != header:
            raise UsageError(
                f"{self.path} belongs to another run ({_difference(first, header)}); use its options, another "
                "--report, or remove it"
            )
        for number, line in enumerate(lines[1:], start=2):
            record = self._parse(line, number)
            try:
                kind, key, value = record
                self.get(kind)[tuple(key)] = value
            except (TypeError, ValueError) as error:
                raise self._damaged(number) from error
        os.truncate(self.path, len("".join(f"{line}\n" for line in lines).encode()))

    def _parse(self, line: str, number: int) -> Any:
        try:
            return json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self._damaged(number) from error

    def _damaged(self, number: int) -> UsageError:
        return UsageError(f"line {number} of {self.path} is damaged; remove the file to begin anew")


def _difference(found: Any, wanted: Any) -> str:
    if not isinstance(found, dict):
        return "it does not say of which"
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    return ", ".join(f"{name} {found.get(name)!r} there, {wanted.get(name)!r} here"[:120] for name in names[:3])
