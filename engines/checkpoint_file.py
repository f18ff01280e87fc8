"""One JSON configuration file of a checkpoint, read key by key with a type and a range for each.

Every key that is asked for is checked; ``finish`` refuses the keys nobody asked for. So a value either reaches the
architecture or is an error: none is dropped in silence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from anyflow_rt.errors import CheckpointError

_REQUIRED = object()


def read_json(path: Path) -> dict[str, Any]:
    """The object in ``path``. Raises CheckpointError where the file is absent, empty, no JSON or no object."""
    again = "download or export the checkpoint again"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; {again}") from None
    except UnicodeDecodeError:
        raise CheckpointError(f"{path} is not text, so it is damaged; {again}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
    if not text.strip():
        raise CheckpointError(f"{path} is empty; {again}")
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        place = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "nested without end"
        raise CheckpointError(f"{path} is not valid JSON ({place}); {again}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a JSON {type(values).__name__}, not an object; {again}")
    return values


class ConfigFile:
    """The keys of one file. The reading methods raise CheckpointError naming file, key, value and what is accepted.

    A method called without ``default`` demands the key.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = read_json(path)
        self._read: set[str] = set()

    def refuse(self, key: str, reason: str) -> NoReturn:
        """Raise for the value of ``key``; ``reason`` says what is accepted."""
        raise CheckpointError(f"{self.path}: {key} is {_brief(self.values.get(key))}; {reason}")

    def take(self, key: str, default: Any = _REQUIRED) -> Any:
        """The value of ``key`` as it stands in the file."""
        self._read.add(key)
        if key not in self.values and default is _REQUIRED:
            raise CheckpointError(
                f"{self.path} has no key {key!r}, and it cannot be guessed; download or export the checkpoint again"
            )
        return self.values.get(key, default)

    def whole(self, key: str, default: Any = _REQUIRED, *, least: int = 1, most: int | None = None) -> int:
        """A whole number of at least ``least``, and of at most ``most`` where that is given."""
        value = self.take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.refuse(key, f"a whole number of at least {least} is needed")
        if most is not None and value > most:
            self.refuse(key, f"at most {most} are supported, and no checkpoint known has as many")
        return value

    def optional_whole(self, key: str, default: int | None = None) -> int | None:
        """A whole number of at least 1, or None for JSON's null."""
        return None if self.take(key, default) is None else self.whole(key, default)

    def number(self, key: str, default: Any = _REQUIRED) -> float:
        """A finite number."""
        value = self.take(key, default)
        if not _is_number(value):
            self.refuse(key, "a finite number is needed")
        return float(value)

    def flag(self, key: str, default: Any = _REQUIRED) -> bool:
        """true or false."""
        value = self.take(key, default)
        if not isinstance(value, bool):
            self.refuse(key, "true or false is needed")
        return value

    def choice(self, key: str, accepted: tuple[str, ...], default: Any = _REQUIRED) -> str:
        """One of the strings ``accepted``."""
        value = self.take(key, default)
        if value not in accepted:
            self.refuse(key, f"supported: {', '.join(accepted)}")
        return value

    def wholes(self, key: str) -> tuple[int, ...]:
        """A list, not empty, of whole numbers of at least 1."""
        value = self.take(key)
        good = isinstance(value, list) and value and all(type(item) is int and item >= 1 for item in value)
        if not good:
            self.refuse(key, "a list of whole numbers of at least 1 is needed")
        return tuple(value)

    def numbers(self, key: str, default: Any = _REQUIRED) -> tuple[float, ...]:
        """A list of finite numbers."""
        value = self.take(key, default)
        if not isinstance(value, list) or not all(_is_number(item) for item in value):
            self.refuse(key, "a list of finite numbers is needed")
        return tuple(float(item) for item in value)

    def flags(self, key: str) -> tuple[bool, ...]:
        """A list of true and false."""
        value = self.take(key)
        if not isinstance(value, list) or not all(isinstance(item, bool) for item in value):
            self.refuse(key, "a list of true and false is needed")
        return tuple(value)

    def only(self, key: str, accepted: Any, reason: str) -> None:
        """Where ``key`` is there at all, its value must be ``accepted``."""
        if self.take(key, accepted) != accepted:
            self.refuse(key, reason)

    def finish(self, harmless: Mapping[str, str]) -> None:
        """Refuse every key that was not read, has a value and is not in ``harmless`` (key -> why it is)."""
        for key, value in self.values.items():
            empty = value in (None, [], {}, [None, None])  # the last is diffusers' mark of an absent component
            if not (key in self._read or key.startswith("_") or key in harmless or empty):
                self.refuse(key, "this key is not supported, and ignoring it could change the video; remove it if not")


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
