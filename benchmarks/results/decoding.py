"""JSON <-> frozen dataclasses: every key by its field's annotation, nothing guessed, nothing dropped.

A field's key is its name, or ``metadata["key"]`` where that is a Python keyword. Annotations may be int, float, str,
bool, a dataclass, ``X | None``, ``tuple[X, ...]`` and ``Mapping[str, X]``.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping
from typing import Any

from anyflow_rt.errors import AnyflowError

MOST_INTEGER = 2**63 - 1
MOST_FLOAT = 1e100
"""What is measured is smaller, and squares of it still add up."""


class DecodingError(AnyflowError):
    """A value that does not fit. The message begins with its place, such as ``latency[3].steps``."""


@dataclasses.dataclass(frozen=True)
class _Key:
    name: str
    key: str
    kind: Any
    required: bool


def encode(value: Any) -> Any:
    """A dataclass as what ``json.dumps`` takes: its fields in order, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.key: encode(getattr(value, each.name)) for each in _keys(type(value))}
    if isinstance(value, Mapping):
        return {key: encode(each) for key, each in value.items()}
    return [encode(each) for each in value] if isinstance(value, tuple) else value


def decode(kind: Any, value: Any, place: str = "") -> Any:
    """``value``, as ``json.loads`` gives it, as a ``kind``. Raises DecodingError."""
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, place)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType or origin is typing.Union:
        return None if value is None else decode(arguments[0], value, place)
    if origin is tuple:
        if not isinstance(value, list):
            _refuse(place, value, "a list")
        return tuple(decode(arguments[0], each, f"{place}[{index}]") for index, each in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, dict):
            _refuse(place, value, "an object")
        return {decode(str, key, place): decode(arguments[1], each, f"{place}.{key}") for key, each in value.items()}
    if kind is bool:
        return value if isinstance(value, bool) else _refuse(place, value, "true or false")
    if kind is str:
        if not isinstance(value, str):
            _refuse(place, value, "a text")
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            _refuse(place, value, "a text without half characters (lone surrogates)")
        return value
    if kind is int:
        if not isinstance(value, int) or isinstance(value, bool):
            _refuse(place, value, "an integer")
        return value if abs(value) <= MOST_INTEGER else _refuse(place, value, "an integer of at most 64 bits")
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        good = number and abs(value) <= MOST_FLOAT  # NaN and infinities are not
        return float(value) if good else _refuse(place, value, f"a finite number up to {MOST_FLOAT:g}")
    raise TypeError(f"{place}: no rule reads {kind}")


def _dataclass(kind: Any, value: Any, place: str) -> Any:
    if not isinstance(value, dict):
        _refuse(place, value, "an object")
    dot = f"{place}." if place else ""
    found, known = {}, set()
    for each in _keys(kind):
        known.add(each.key)
        if each.key in value:
            found[each.name] = decode(each.kind, value[each.key], dot + each.key)
        elif each.required:
            raise DecodingError(f"{dot}{each.key} is missing")
    for key in value:
        if key not in known:
            raise DecodingError(f"{dot}{key} is not a key of this schema")
    try:
        return kind(**found)
    except AnyflowError as error:
        raise DecodingError(f"{place}: {error}" if place else str(error)) from error


@functools.cache
def _keys(kind: Any) -> tuple[_Key, ...]:
    hints = typing.get_type_hints(kind)
    absent = dataclasses.MISSING
    return tuple(
        _Key(
            each.name,
            each.metadata.get("key", each.name),
            hints[each.name],
            each.default is absent and each.default_factory is absent,
        )
        for each in dataclasses.fields(kind)
    )


def _refuse(place: str, value: Any, wanted: str) -> typing.NoReturn:
    text = json.dumps(value)
    raise DecodingError(f"{place} is {text if len(text) <= 60 else text[:57] + '...'}; {wanted} is needed")
