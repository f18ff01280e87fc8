"""JSON values against the annotations of a frozen dataclass: wrong types are found where a file is read, not later."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

LONGEST_ECHO = 60


def wrong_type(kind: type, values: Mapping[str, Any]) -> str | None:
    """``key is value`` of the first value that is not of its field's type, None where all are. ``values``: one for
    each field of ``kind``, in any order; lists stand for tuples and objects for dataclasses, not looked into."""
    for key, hint in _hints(kind).items():
        if not _fits(values[key], hint):
            text = repr(values[key])
            return f"{key} is {text if len(text) <= LONGEST_ECHO else text[: LONGEST_ECHO - 3] + '...'}"
    return None


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is tuple:
        if not isinstance(value, list) or (arguments[-1] is not ... and len(value) != len(arguments)):
            return False
        items = [arguments[0]] * len(value) if arguments[-1] is ... else arguments
        return all(_fits(item, each) for item, each in zip(value, items, strict=True))
    if origin is not None:  # Mapping[str, ...]
        return isinstance(value, dict) and all(_fits(item, arguments[1]) for item in value.values())
    if is_dataclass(hint):
        return isinstance(value, dict)
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    return isinstance(value, hint)
