"""What a sweep has measured so far, one JSON line each, so that an interrupt or a crash costs one sample at most.

The first line says which sweep it is. A journal of another sweep is not gone on with, and not overwritten unless the
caller says so. A last line that was cut off is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from anyflow_rt.errors import OutputError, UsageError

NAME = "samples.jsonl"
Key = tuple[Any, ...]


class Journal:
    """Samples by (kind, key). Use as a context manager; ``finish`` removes the file."""

    def __init__(self, path: Path, sweep: Mapping[str, Any], *, resume: bool) -> None:
        """Open, or begin, the journal of ``sweep`` (plain JSON values that say what is measured, and of what).

        Raises UsageError where there is one already and ``resume`` is not asked for, or it is another sweep's;
        OutputError where it cannot be read or written.
        """
        self.path = path
        self._found: dict[str, dict[Key, Any]] = {}
        header = json.loads(json.dumps(sweep))
        try:
            if path.exists():
                self._read(header, resume)
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

    def _write(self, value: Any) -> None:
        self._file.write(json.dumps(value, separators=(",", ":")) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, header: Any, resume: bool) -> None:
        if not resume:
            raise UsageError(
                f"{self.path} holds what an interrupted run measured; go on with --resume, or remove the file to begin "
                "anew"
            )
        lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
        whole = lines[:-1]  # what follows the last line end was cut off
        records = [self._parse(line, number) for number, line in enumerate(whole, start=1)]
        if not records or records[0] != header:
            difference = _difference(records[0] if records else None, header)
            raise UsageError(
                f"{self.path} belongs to another run ({difference}); use its options, another --report, or remove it"
            )
        for kind, key, value in records[1:]:
            self.get(kind)[tuple(key)] = value
        os.truncate(self.path, len("".join(f"{line}\n" for line in whole).encode()))

    def _parse(self, line: str, number: int) -> Any:
        try:
            return json.loads(line)
        except ValueError as error:
            raise UsageError(f"line {number} of {self.path} is damaged; remove the file to begin anew") from error


def _difference(found: Any, wanted: Any) -> str:
    if not isinstance(found, dict):
        return "it does not say of which"
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    return ", ".join(f"{name} {found.get(name)!r} there, {wanted.get(name)!r} here"[:120] for name in names[:3])
