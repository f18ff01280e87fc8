"""``manifest.json``: what a bundle consists of, as frozen values.

A file is part of a bundle exactly if the manifest names it. The identity of a bundle depends on what goes in (the
checkpoint's bytes, this schema, the version of the exporters), not on when or where it was built.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import PurePosixPath
from typing import Any

from anyflow_rt.engines.architecture import Architecture
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.engines.json_types import wrong_type
from anyflow_rt.errors import BundleError

SCHEMA = 1
MANIFEST_NAME = "manifest.json"


class ManifestError(BundleError):
    """A manifest that is not one, or of another schema. ``Bundle`` adds the path and the mend to the message."""


@dataclass(frozen=True)
class FileRecord:
    """One file: its path below the bundle (with ``/``), its bytes and their sha256 (hex)."""

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        path = PurePosixPath(self.path)
        if path.is_absolute() or ".." in path.parts or not path.parts or not self.path.isprintable():
            raise ManifestError(
                f"its {MANIFEST_NAME} is damaged (it names the file {self.path!r}, which is not below it)"
            )


@dataclass(frozen=True)
class ComponentRecord:
    """One exported network. ``files[0]`` is the ONNX graph; the rest are its weights. ``seconds``: its export took."""

    name: str
    files: tuple[FileRecord, ...]
    seconds: float


@dataclass(frozen=True)
class EngineRecord:
    """Components in the form of one engine for one target.

    profile: the sizes it was built for, ``dynamic`` for all. packages: the versions its files depend on.

    On a CPU an engine has no files and depends on nothing: its record says that the building machine compiled the
    ONNX graphs for it once. A run compiles them on its own machine, for the engine that is fastest there, whether
    there is a record of it or not.
    """

    target: str
    engine: str
    precision: str
    profile: str
    packages: Mapping[str, str]
    files: tuple[FileRecord, ...]
    seconds: float

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What tells it from the others of its bundle."""
        return self.target, self.engine, self.precision, self.profile


@dataclass(frozen=True)
class CheckpointRecord:
    """Where a bundle came from. ``id``: its directory or hub id; ``revision``: a hub id's commit; ``sha256``: of its
    contents."""

    id: str
    revision: str | None
    sha256: str


@dataclass(frozen=True)
class Defaults:
    """The video a bundle makes where its user does not say: frames, pixels, frames a second."""

    num_frames: int
    height: int
    width: int
    fps: float

    @property
    def size(self) -> VideoSize:
        return VideoSize(self.num_frames, self.height, self.width)


@dataclass(frozen=True)
class Manifest:
    """All of a bundle. ``packages``: the versions the graphs were exported with."""

    checkpoint: CheckpointRecord
    export_version: int
    architecture: Architecture
    defaults: Defaults
    tokenizer: FileRecord
    components: tuple[ComponentRecord, ...]
    engines: tuple[EngineRecord, ...]
    packages: Mapping[str, str]

    @property
    def bundle_id(self) -> str:
        """sha256 (hex) of the checkpoint's hash, the schema and the export version."""
        return bundle_id(self.checkpoint.sha256, self.export_version)

    def files(self) -> Iterator[FileRecord]:
        """Every file the bundle consists of, but the manifest itself."""
        yield self.tokenizer
        for component in self.components:
            yield from component.files
        for engine in self.engines:
            yield from engine.files

    def to_json(self) -> str:
        """The text of ``manifest.json``: keys in the order of the fields, parts in the order of their names."""
        body = asdict(self)
        body["architecture"] = self.architecture.to_dict()
        body["components"] = [asdict(part) for part in sorted(self.components, key=lambda part: part.name)]
        body["engines"] = [asdict(part) for part in sorted(self.engines, key=lambda part: part.key)]
        return json.dumps({"schema": SCHEMA, "bundle_id": self.bundle_id, **body}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read ``to_json``'s text. Raises ManifestError, which says what is wrong with it."""
        try:
            body = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ManifestError(f"its {MANIFEST_NAME} is damaged ({error})") from error
        schema = body.pop("schema", None) if isinstance(body, dict) else None
        if schema != SCHEMA:
            raise ManifestError(f"it has schema {schema!r}, and this anyflow-rt reads schema {SCHEMA}")
        stored_id = body.pop("bundle_id", None)
        try:
            manifest = cls(
                **{
                    **_exactly(cls, body, ""),
                    "checkpoint": CheckpointRecord(**_exactly(CheckpointRecord, body["checkpoint"], "checkpoint")),
                    "architecture": Architecture.from_dict(body["architecture"]),
                    "defaults": Defaults(**_exactly(Defaults, body["defaults"], "defaults")),
                    "tokenizer": _file(body["tokenizer"], "tokenizer"),
                    "components": tuple(
                        ComponentRecord(**_with_files(ComponentRecord, values, f"components[{index}]"))
                        for index, values in enumerate(body["components"])
                    ),
                    "engines": tuple(
                        EngineRecord(**_with_files(EngineRecord, values, f"engines[{index}]"))
                        for index, values in enumerate(body["engines"])
                    ),
                }
            )
        except ManifestError:
            raise
        except BundleError as error:
            raise ManifestError(f"its {MANIFEST_NAME} is damaged ({error})") from error
        if stored_id != manifest.bundle_id:
            raise ManifestError(f"its {MANIFEST_NAME} is damaged (bundle_id {stored_id!r} is not that of its contents)")
        return manifest


def bundle_id(checkpoint_sha256: str, export_version: int) -> str:
    """The identity of the bundle that this package makes of a checkpoint."""
    return hashlib.sha256(f"{checkpoint_sha256} {SCHEMA} {export_version}".encode()).hexdigest()


def _file(values: Any, where: str) -> FileRecord:
    return FileRecord(**_exactly(FileRecord, values, where))


def _with_files(kind: type, values: Any, where: str) -> dict[str, Any]:
    checked = _exactly(kind, values, where)
    files = [_file(file, f"{where}.files[{index}]") for index, file in enumerate(checked["files"])]
    if not files and kind is ComponentRecord:
        raise ManifestError(f"its {MANIFEST_NAME} is damaged ({where}.files is empty)")
    return {**checked, "files": tuple(files)}


def _exactly(kind: type, values: Any, where: str) -> dict[str, Any]:
    """``values``, found at ``where``, if it has the fields of ``kind`` and no others, each of its type."""
    prefix = f"{where}." if where else ""
    if not isinstance(values, dict):
        raise ManifestError(f"its {MANIFEST_NAME} is damaged ({where} is {values!r})")
    if odd := sorted(set(values) ^ {field.name for field in fields(kind)}):
        names = ", ".join(f"{prefix}{key}" for key in odd)
        raise ManifestError(f"its {MANIFEST_NAME} is damaged (missing or unknown: {names})")
    if wrong := wrong_type(kind, values):
        raise ManifestError(f"its {MANIFEST_NAME} is damaged ({prefix}{wrong})")
    return values
