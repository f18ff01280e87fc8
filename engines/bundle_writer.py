"""Making and extending a bundle so that whoever reads meanwhile, and whatever happens, finds the old one or the new.

    with BundleWriter(path, checkpoint=..., export_version=..., architecture=..., defaults=..., packages=...) as writer:
        if not writer.has_component("denoiser"):
            with writer.component("denoiser") as folder:
                export(folder / "denoiser.onnx")
        writer.set_tokenizer(checkpoint.tokenizer_file)
        writer.commit()

1. A lock beside the bundle, ``.<name>.lock``, keeps two builds apart. The empty file stays, also after a failure:
   whoever removed it could leave two builds with a lock each, one on the file and one on its successor.
2. A new bundle grows in a hidden sibling directory, which ``commit`` renames into place.
3. A bundle that exists is extended with files of names that its manifest does not use; ``commit`` replaces the
   manifest. Files that a manifest names are never written again.
4. What no manifest names is left over from a build that was interrupted: the next build removes it.

Everything is on the disk before the name that makes it count is.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from anyflow_rt.engines.amounts import amount
from anyflow_rt.engines.architecture import Architecture
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.bundle_files import PARTIAL, file_sha256, flush, free_name, record_file, sweep
from anyflow_rt.engines.bundle_survey import GIVE_OUT, survey
from anyflow_rt.engines.manifest import (
    MANIFEST_NAME,
    CheckpointRecord,
    ComponentRecord,
    Defaults,
    EngineRecord,
    FileRecord,
    Manifest,
    bundle_id,
)
from anyflow_rt.errors import BundleError, OutputError

_log = logging.getLogger(__name__)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class BundleWriter:
    """A build in progress at ``path``, a context manager. Leaving it without ``commit`` changes nothing.

    A bundle of the same identity at ``path`` is extended: what it has intact is kept. ``force`` makes everything
    again and is needed to replace a bundle of another checkpoint, or one that cannot be read. ``elsewhere``: how to
    give another place, for messages.

    Raises BundleError where ``path`` holds another checkpoint's bundle or something that is no bundle, OutputError
    where it cannot be written, also for an OSError of that kind raised inside the ``with`` block.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        checkpoint: CheckpointRecord,
        export_version: int,
        architecture: Architecture,
        defaults: Defaults,
        packages: Mapping[str, str],
        force: bool = False,
        elsewhere: str = GIVE_OUT,
    ) -> None:
        self.path = Path(os.path.abspath(path))
        self._root = self.path
        self._onnx = "onnx"
        self._checkpoint, self._export_version = checkpoint, export_version
        self._architecture, self._defaults, self._packages = architecture, defaults, packages
        self._force, self._elsewhere = force, elsewhere
        self._lock = FileLock(self.path.parent / f".{self.path.name}.lock")
        self._existing: Manifest | None = None
        self._components: dict[str, ComponentRecord] = {}
        self._engines: dict[tuple[str, str, str, str], EngineRecord] = {}
        self._tokenizer: FileRecord | None = None

    @property
    def bundle_id(self) -> str:
        """The identity of the bundle being made."""
        return bundle_id(self._checkpoint.sha256, self._export_version)

    def __enter__(self) -> Self:
        with self._writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._acquire()
            try:
                self._begin()
            except BaseException:
                self._lock.release()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._writing():
                self._clean()
        finally:
            self._lock.release()
        if isinstance(error, OSError) and error.errno in _FULL:
            with self._writing():
                raise error

    def require_space(self, needed: int) -> None:
        """Raise OutputError unless ``needed`` bytes are free where the bundle goes."""
        free = shutil.disk_usage(self._root).free
        if free < needed:
            raise OutputError(
                f"{self.path} needs {amount(needed)} and {self._root.parent} has {amount(free)} free; free some or "
                f"{self._elsewhere}"
            )

    @property
    def components(self) -> Mapping[str, ComponentRecord]:
        """Those that are there, from before or from now."""
        return dict(self._components)

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer is there, from before or from now."""
        return self._tokenizer is not None

    def has_component(self, name: str) -> bool:
        """Whether the component is there, from before or from now."""
        return name in self._components

    def has_engine(self, target: str, engine: str, precision: str, profile: str = "dynamic") -> bool:
        """Whether the engine is there, from before or from now."""
        return (target, engine, precision, profile) in self._engines

    @contextlib.contextmanager
    def component(self, name: str) -> Iterator[Path]:
        """An empty directory; the files written there, ``<name>.onnx`` among them, become the component's."""
        start = time.perf_counter()
        with self._scratch(name) as scratch:
            yield scratch
            files = self._take(scratch, self._root / self._onnx)
        graph = next((file for file in files if file.path == f"{self._onnx}/{name}.onnx"), None)
        if graph is None:
            raise BundleError(f"the export of {name} wrote no {name}.onnx")
        rest = tuple(file for file in files if file is not graph)
        self._components[name] = ComponentRecord(name, (graph, *rest), round(time.perf_counter() - start, 3))

    @contextlib.contextmanager
    def engine(
        self, target: str, engine: str, precision: str, packages: Mapping[str, str], profile: str = "dynamic"
    ) -> Iterator[Path]:
        """An empty directory; the files written there, if any, become the engine's. ``packages``: what they need, as it
        is when the block ends."""
        start = time.perf_counter()
        name, parent = f"{engine}-{precision}-{profile}", self._root / "engines" / target
        with self._scratch(name) as scratch:
            yield scratch
            files = self._take(scratch, parent / free_name(parent, name))
        record = EngineRecord(
            target, engine, precision, profile, dict(packages), files, round(time.perf_counter() - start, 3)
        )
        self._engines[record.key] = record

    def set_tokenizer(self, source: Path) -> None:
        """Copy the ``tokenizer.json`` unless the bundle has the same one."""
        digest = file_sha256(source)
        if self._tokenizer is not None and self._tokenizer.sha256 == digest:
            return
        with self._writing():
            path = self._root / f"{free_name(self._root, 'tokenizer.json').removesuffix('.json')}.json"
            shutil.copyfile(source, path)
            self._tokenizer = record_file(self._root, path)

    def draft(self) -> Bundle:
        """The bundle as ``commit`` would make it, to be tried before it counts. Valid inside the ``with`` block."""
        return Bundle(self._root, self._manifest())

    def commit(self) -> Bundle:
        """Make what was written the bundle at ``path``, and remove what it replaces."""
        manifest = self._manifest()
        with self._writing():
            partial = self._root / f"{MANIFEST_NAME}{PARTIAL}"
            partial.write_text(manifest.to_json(), encoding="utf-8")
            flush(partial)
            for folder, _, _ in os.walk(self._root):
                flush(Path(folder))
            partial.replace(self._root / MANIFEST_NAME)
            flush(self._root)
            if self._root != self.path:
                self._root.rename(self.path)
                flush(self.path.parent)
                self._root = self.path
            self._existing = manifest
            sweep(self.path, manifest)
        return Bundle.open(self.path)

    def _manifest(self) -> Manifest:
        if self._tokenizer is None:
            raise BundleError(f"the bundle {self.path} has no tokenizer yet; set_tokenizer comes first")
        return Manifest(
            checkpoint=self._checkpoint,
            export_version=self._export_version,
            architecture=self._architecture,
            defaults=self._defaults,
            tokenizer=self._tokenizer,
            components=tuple(self._components.values()),
            engines=tuple(self._engines.values()),
            packages=dict(self._packages),
        )

    def _acquire(self) -> None:
        # FileLock takes some failures to make its file for a lock that another holds, and would wait for ever.
        os.close(os.open(self._lock.lock_file, os.O_RDWR | os.O_CREAT, 0o666))
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            _log.warning("another build of %s is running; waiting for it", self.path)
            self._lock.acquire()

    def _begin(self) -> None:
        """Look at what is there, remove what is left over, and choose where to write."""
        for stale in self.path.parent.glob(f".{self.path.name}.partial-*"):
            shutil.rmtree(stale)
        found = survey(self.path, self.bundle_id, force=self._force, elsewhere=self._elsewhere)
        self._existing = found.manifest
        self._components, self._engines = dict(found.components), dict(found.engines)
        self._tokenizer = found.tokenizer
        if (self.path / MANIFEST_NAME).is_file():
            self._root = self.path
        else:
            self._root = self.path.parent / f".{self.path.name}.partial-{os.getpid()}"
            self._root.mkdir()
        if found.manifest is not None:
            sweep(self.path, found.manifest)
        self._onnx = free_name(self._root, "onnx")

    @contextlib.contextmanager
    def _scratch(self, name: str) -> Iterator[Path]:
        """An empty directory that is removed afterwards."""
        scratch = self._root / f"{name}{PARTIAL}"
        with self._writing():
            scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _take(self, scratch: Path, folder: Path) -> tuple[FileRecord, ...]:
        """Move the files below ``scratch`` to ``folder`` and describe them. Whoever may read the bundle may read them,
        also those that were written through a temporary file, which is its owner's alone."""
        with self._writing():
            records = []
            readers = scratch.stat().st_mode & 0o444
            for path in sorted(path for path in scratch.rglob("*") if path.is_file()):
                final = folder / path.relative_to(scratch)
                final.parent.mkdir(parents=True, exist_ok=True)
                path.chmod(path.stat().st_mode | readers)
                path.replace(final)
                records.append(record_file(self._root, final))
            return tuple(records)

    def _clean(self) -> None:
        """Remove what was written and not committed."""
        if self._root != self.path:
            shutil.rmtree(self._root, ignore_errors=True)
        elif self._existing is not None:
            sweep(self.path, self._existing)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """An OSError is the place's fault: say so, with the mend."""
        try:
            yield
        except OSError as error:
            what = f"no space is left for {self.path}" if error.errno in _FULL else f"cannot write {self.path}"
            mend = "free some space" if error.errno in _FULL else "mend its permissions"
            raise OutputError(f"{what} ({error}); {mend} or {self._elsewhere}") from error
