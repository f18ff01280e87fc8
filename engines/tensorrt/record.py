"""``engine.json``: how engines were built, read by whoever opens or inspects them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from anyflow_rt.engines.json_types import wrong_type
from anyflow_rt.engines.stages import RUN_COMPONENTS
from anyflow_rt.engines.tensorrt.mending import RECORD as RECORD
from anyflow_rt.engines.tensorrt.mending import engine_mend
from anyflow_rt.engines.tensorrt.settings import TensorRtSettings
from anyflow_rt.errors import EngineError

SCHEMA = 3


@dataclass(frozen=True)
class BuiltComponent:
    """precision: of its graph. fused, decomposed: attentions that are one kernel, and those that are taken apart.

    kernels: nodes that are kernels of ours, by kind. layers: of the network before the package fused it. bytes: of its
    file. weights, working: bytes of a GPU that it takes, as TensorRT told them, None where it did not; ports: those of
    its inputs and outputs. All at the largest shapes. seconds: of making the typed graph and the engine. peak_memory:
    of the building process so far, bytes.
    """

    precision: str
    fused: int
    decomposed: int
    kernels: dict[str, int]
    layers: int
    bytes: int
    weights: int | None
    working: int | None
    ports: int
    seconds: float
    peak_memory: int
    profiles: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class EngineFacts:
    """package, version: what built it. components: of each the values of ``BuiltComponent``."""

    package: str
    version: str
    target: str
    precision: str
    settings: dict[str, Any]
    components: dict[str, dict[str, Any]]

    def write(self, folder: Path) -> None:
        """Into ``folder``, beside the engines."""
        text = json.dumps({"schema": SCHEMA, **self.__dict__}, indent=1)
        (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def differences(facts: EngineFacts, settings: Mapping[str, Any]) -> list[str]:
    """In which of the ``settings`` that are asked for now the engines were built with others, as words."""
    asked = json.loads(json.dumps(settings))
    return [
        f"{name} {_words(facts.settings.get(name))} instead of {_words(value)}"
        for name, value in asked.items()
        if facts.settings.get(name) != value
    ]


def _words(value: Any) -> str:
    return ",".join(str(each) for each in value) if isinstance(value, list) else str(value)


def read_facts(folder: Path) -> EngineFacts:
    """Raises EngineError, with the mend, where they are missing, damaged or of another schema."""
    path = folder / RECORD
    try:
        return _checked(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(f"{path} cannot be read ({error}); {engine_mend(path)}") from error


def _checked(values: Any) -> EngineFacts:
    """Raises ValueError with the first thing that is wrong."""
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    if values.get("schema") != SCHEMA:
        raise ValueError(f"its schema is {values.get('schema')!r} and this anyflow-rt reads {SCHEMA}")
    found = {name: value for name, value in values.items() if name != "schema"}
    _check_keys(EngineFacts, found, "it")
    _check_keys(TensorRtSettings, found["settings"], "settings")
    if lost := [name for name in RUN_COMPONENTS if name not in found["components"]]:
        raise ValueError(f"components has no {', '.join(lost)}")
    for name, part in found["components"].items():
        _check_keys(BuiltComponent, part, name)
    return EngineFacts(**found)


def _check_keys(kind: type, values: dict[str, Any], where: str) -> None:
    names = {field.name for field in fields(kind)}
    if lost := sorted(names - values.keys()):
        raise ValueError(f"{where} has no {', '.join(lost)}")
    if unknown := sorted(values.keys() - names):
        raise ValueError(f"{where} has an unknown {', '.join(unknown)}")
    if wrong := wrong_type(kind, values):
        raise ValueError(f"{where}: {wrong}")
