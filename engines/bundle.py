"""A bundle on disk, read: the directory that ``build`` makes and everything else runs from.

    manifest.json      what belongs to it; whatever this does not name is left over and not part of it
    onnx/              one graph a component, its weights beside it
    engines/           <target>/<engine>-<precision>-<profile>/<component>.*
    tokenizer.json
    calibration.json   measured later, so not in the manifest; may be absent

Opening checks the schema and that every file is there at its size, which takes milliseconds. ``verify`` reads them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from anyflow_rt.engines.architecture import Architecture
from anyflow_rt.engines.bundle_files import content_fault, size_fault
from anyflow_rt.engines.export import EXPORT_VERSION
from anyflow_rt.engines.manifest import MANIFEST_NAME, ComponentRecord, Defaults, EngineRecord, FileRecord, Manifest
from anyflow_rt.engines.mend import build_command, rebuild_command
from anyflow_rt.engines.paths import check_path
from anyflow_rt.engines.registry import is_tensorrt
from anyflow_rt.engines.tensorrt.mending import engine_mend
from anyflow_rt.errors import BundleError


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: where it is, and what its manifest says."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read the manifest and check that its files are there.

        Raises BundleError for a missing or damaged bundle and for one of another schema; the message names the mend.
        UsageError where ``path`` is empty or no path.
        """
        folder = check_path("the bundle", path, "give a directory made by  anyflow-rt build")
        bundle = cls(folder, read_manifest(folder))
        bundle._refuse({file: fault for file in bundle.manifest.files() if (fault := size_fault(folder, file))})
        return bundle

    @property
    def id(self) -> str:
        """sha256 (hex) of what it was made from."""
        return self.manifest.bundle_id

    @property
    def architecture(self) -> Architecture:
        return self.manifest.architecture

    @property
    def defaults(self) -> Defaults:
        return self.manifest.defaults

    @property
    def tokenizer_path(self) -> Path:
        return self.path / self.manifest.tokenizer.path

    @property
    def calibration_path(self) -> Path:
        """Where the measured quality curve belongs; absent until measured."""
        return self.path / "calibration.json"

    def component_path(self, name: str) -> Path:
        """The ONNX graph of a component. Raises BundleError where the bundle has none of that name."""
        return self.path / self._component(name).files[0].path

    def component_hash(self, name: str) -> str:
        """sha256 (hex) over the hashes of a component's files: equal where graph and weights are."""
        hashes = "".join(file.sha256 for file in self._component(name).files)
        return hashlib.sha256(hashes.encode()).hexdigest()

    def engine_path(self, record: EngineRecord, component: str) -> Path:
        """The file that ``record``'s engine opens for a component: the one that is called after it.

        Raises BundleError where the engine has none.
        """
        for file in record.files:
            path = self.path / file.path
            if path.stem == component:
                return path
        raise BundleError(
            f"the bundle {self.path} has no {component} for {record.target} {record.engine} {record.precision}; "
            f"{self._engine_mend(record, force=True)}"
        )

    def check_version(self) -> None:
        """Raise BundleError where another version of the exporters made the graphs."""
        if self.manifest.export_version != EXPORT_VERSION:
            raise BundleError(
                f"the bundle {self.path} was exported by version {self.manifest.export_version}, and this anyflow-rt "
                f"runs version {EXPORT_VERSION}; {_force(self.path)}"
            )

    def verify(self) -> None:
        """Read every file and compare its hash. Raises BundleError that names each file that differs."""
        faults = {file: fault for file in self.manifest.files() if (fault := content_fault(self.path, file))}
        self._refuse(faults, force=True)

    def _component(self, name: str) -> ComponentRecord:
        components = {component.name: component for component in self.manifest.components}
        if name not in components:
            there = ", ".join(sorted(components)) or "none"
            raise BundleError(f"the bundle {self.path} has no component {name!r} (it has {there}); {self._mend()}")
        return components[name]

    def _refuse(self, faults: Mapping[FileRecord, str], *, force: bool = False) -> None:
        """Raise BundleError for files that are damaged, if any are, with a command for each part that has to be made
        again. force: also files of the right size, which a build would keep."""
        if not faults:
            return
        engines = [record for record in self.manifest.engines if any(file in faults for file in record.files)]
        of_engines = {file for record in engines for file in record.files}
        mends = [] if faults.keys() <= of_engines else [_force(self.path) if force else self._mend()]
        mends += [self._engine_mend(record, force=force) for record in engines]
        raise BundleError(
            f"the bundle {self.path} is damaged: {', '.join(faults.values())}; {', then '.join(dict.fromkeys(mends))}"
        )

    def _engine_mend(self, record: EngineRecord, *, force: bool) -> str:
        """How to make one engine again; one that is made of the graphs leaves the others as they are."""
        if is_tensorrt(record.engine) and record.files:
            return engine_mend(self.path / record.files[0].path)
        return (
            f"build it again with  {rebuild_command(self.path, force=force)} --target {record.target} "
            f"--engine {record.engine} --precision {record.precision}"
        )

    def _mend(self) -> str:
        return f"build it again with  {rebuild_command(self.path)}"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the bundle ``folder``, its files unchecked. Raises BundleError, which names the mend."""
    try:
        text = (folder / MANIFEST_NAME).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        what = f"{folder} is not a bundle: it has no {MANIFEST_NAME}" if folder.exists() else f"no bundle at {folder}"
        raise BundleError(f"{what}; make one with  {build_command(folder)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"the bundle {folder} cannot be read ({error}); {_force(folder)}") from error
    try:
        return Manifest.from_json(text)
    except BundleError as error:
        raise BundleError(f"the bundle {folder} cannot be used: {error}; {_force(folder)}") from error


def _force(folder: Path) -> str:
    return f"build it again with  {rebuild_command(folder, force=True)}"
