"""What lies where a bundle is to be built, and what of it a build may keep. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from anyflow_rt.engines.bundle import read_manifest
from anyflow_rt.engines.bundle_files import size_fault
from anyflow_rt.engines.manifest import MANIFEST_NAME, ComponentRecord, EngineRecord, FileRecord, Manifest
from anyflow_rt.errors import BundleError

GIVE_OUT = "give another place with --out"


@dataclass(frozen=True)
class Survey:
    """``manifest``: that of the bundle that is there, None where there is none or it cannot be read. The rest: the
    parts of it that are intact and may be kept."""

    manifest: Manifest | None = None
    components: Mapping[str, ComponentRecord] = field(default_factory=dict)
    engines: Mapping[tuple[str, str, str, str], EngineRecord] = field(default_factory=dict)
    tokenizer: FileRecord | None = None


def survey(path: Path, bundle_id: str, *, force: bool, elsewhere: str = GIVE_OUT) -> Survey:
    """Look at ``path``, where the bundle ``bundle_id`` is to be. ``force`` keeps nothing.

    Raises BundleError where something is there that a build must not replace: no bundle at all, or, without ``force``,
    one of another identity or one that cannot be read. ``elsewhere`` ends the message: how to give another place.
    """
    if not (path / MANIFEST_NAME).is_file():
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise BundleError(f"{path} exists and is not a bundle; {elsewhere}")
        return Survey()
    try:
        manifest = read_manifest(path)
    except BundleError:
        if not force:
            raise
        return Survey()
    if force:
        return Survey(manifest)
    if manifest.bundle_id != bundle_id:
        raise BundleError(
            f"{path} holds the bundle of another checkpoint or version ({manifest.checkpoint.id}); replace it with "
            f"--force or {elsewhere}"
        )

    def intact(*files: FileRecord) -> bool:
        return all(size_fault(path, file) is None for file in files)

    return Survey(
        manifest,
        {part.name: part for part in manifest.components if intact(*part.files)},
        {part.key: part for part in manifest.engines if intact(*part.files)},
        manifest.tokenizer if intact(manifest.tokenizer) else None,
    )
