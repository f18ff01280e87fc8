"""``engine.json``: how engines were built, read by whoever opens or inspects them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyflow_rt.engines.mend import engine_mend
from anyflow_rt.errors import EngineError

RECORD = "engine.json"
SCHEMA = 1


@dataclass(frozen=True)
class EngineFacts:
    """package, version: what built it. components: of each the values of ``build.BuiltComponent``."""

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
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("schema") != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA}")
        return EngineFacts(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"{path} cannot be read ({error}); {engine_mend(path)}") from error
