"""Latency profiles on disk: what this machine measured, kept between processes and shared by them.

``$XDG_STATE_HOME/anyflow-rt/latency/<bundle id>/<device>.json`` (``~/.local/state`` where the variable is unset or not
absolute; ``ANYFLOW_RT_STATE`` replaces ``$XDG_STATE_HOME/anyflow-rt``). Several processes may run: each keeps what it
measured to itself until ``flush``, which under a lock reads the file again, adds it, and replaces the file in one
step. Bounded: ``MAX_SETTINGS`` settings, the least recently used goes first, each with a bounded history.

A profile never ends a run. What cannot be read is measured afresh; where nothing can be kept, runs go on and only
this process remembers. Either is said once, as a warning.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anyflow_rt.errors import OutputError
from anyflow_rt.sampling.latency import FirstCalls, History, Profile, RunTimes, Setting, bounded
from anyflow_rt.sampling.lock import locked

SCHEMA = 1
MAX_SETTINGS = 16
STORED_JUMPS = 1024
"""Of one setting."""
MAX_BYTES = 8 << 20
"""Ten times what the bounds above allow: a larger file is not ours."""
MAX_PENDING = 256
"""Runs that wait to be written; of more only the newest would be kept anyway."""
LOCK_SECONDS = 2.0
NO_HOME = "a home directory, as this user has none"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """What a profile is true of. versions: of the packages that make the times, as ("openvino", "2026.0")."""

    bundle_id: str
    device: str
    machine: str
    versions: tuple[tuple[str, str], ...] = ()


def state_root() -> Path:
    """The directory of this package below the user's state. It may not exist yet. Raises OSError where the user has
    no home directory and names none."""
    own = os.environ.get("ANYFLOW_RT_STATE")
    if own:
        return Path(own)
    given = Path(os.environ.get("XDG_STATE_HOME", ""))
    try:
        return (given if given.is_absolute() else Path.home() / ".local" / "state") / "anyflow-rt"
    except RuntimeError as error:
        raise FileNotFoundError(errno.ENOENT, NO_HOME) from error


def this_machine() -> str:
    """The processor and how many of its cores this process may use."""
    model = os.uname().machine
    with suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        model = found[1].strip() if found else model
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


class LatencyStore:
    """One profile file. ``load`` it, ``add`` runs as they end, ``flush`` now and then and at the end. Thread-safe."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        name = re.sub(r"[^\w.-]", "_", identity.device).strip(".") or "device"
        try:
            self._path: Path | None = state_root() / "latency" / identity.bundle_id / f"{name}.json"
        except FileNotFoundError:
            self._path = None
        self._pending: list[tuple[Setting, RunTimes, FirstCalls | None]] = []
        self._saving, self._listing = threading.Lock(), threading.Lock()
        self._warned: set[str] = set()

    @property
    def path(self) -> Path:
        """The file. Raises FileNotFoundError where the user has no home directory and names no other."""
        if self._path is None:
            raise FileNotFoundError(errno.ENOENT, NO_HOME)
        return self._path

    def load(self) -> Profile:
        """What was measured before, what waits to be written included; empty where nothing was."""
        with self._listing:  # so that no run is both in the file and still waiting
            try:
                profile = self._read()
            except OSError as error:
                self._warn("unusable", f"{self._unusable(error)} (runs go on)")
                profile = Profile()
            return _later(profile, self._pending)

    def add(self, setting: Setting, run: RunTimes, first: FirstCalls | None = None) -> None:
        """Remember a run until ``flush``."""
        with self._listing:
            self._pending = [*self._pending, (setting, run, first)][-MAX_PENDING:]

    def save(self) -> None:
        """Write what was added. Raises OutputError where that is not possible; it is then kept for a later call."""
        with self._saving:
            pending = self._pending
            if not pending:
                return
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with locked(Path(f"{self.path}.lock"), LOCK_SECONDS):
                    self._replace(_later(self._read(), pending), pending)
            except TimeoutError as error:
                raise OutputError(
                    f"another process holds {self.path}.lock; what this one measured is written later"
                ) from error
            except OSError as error:
                raise OutputError(self._unusable(error)) from error

    def flush(self) -> bool:
        """``save``, but what keeps it from being written is said once, as a warning. Returns whether it was."""
        try:
            self.save()
        except OutputError as error:
            self._warn("lock" if isinstance(error.__cause__, TimeoutError) else "unusable", f"{error} (runs go on)")
            return False
        return True

    def _read(self) -> Profile:
        try:
            if self.path.stat().st_size > MAX_BYTES:
                raise ValueError(f"it has more than {MAX_BYTES} bytes")
            value = json.loads(self.path.read_bytes())
            stale = self._stale(value)
            if stale is None:
                return _profile(value)
        except FileNotFoundError:
            return Profile()
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            self._warn("damaged", f"the latency profile {self.path} is damaged ({error}); it is measured afresh")
            return Profile()
        self._warn("stale", f"the latency profile {self.path} is discarded: {stale}; it is measured afresh")
        return Profile()

    def _stale(self, value: Mapping[str, Any]) -> str | None:
        """Why the file says nothing of these runs; None where it does."""
        if value["schema"] != SCHEMA:
            return f"its schema is {value['schema']!r}, not {SCHEMA}"
        expected = _identity(self.identity)
        for name, now in expected.items():
            if value[name] != now:
                return f"its {name.replace('_', ' ')} is {value[name]!r}, now {now!r}"
        return None

    def _replace(self, profile: Profile, written: Sequence[tuple[Setting, RunTimes, FirstCalls | None]]) -> None:
        """To be called under the lock: nobody else writes then, so what others left half written can go."""
        kept = list(profile.histories.items())[-MAX_SETTINGS:]
        value = {"schema": SCHEMA, **_identity(self.identity), "profiles": [_as_json(*each) for each in kept]}
        text, names = json.dumps(value, separators=(",", ":")), {id(each) for each in written}
        for stray in self.path.parent.glob(f".{self.path.name}.*"):
            stray.unlink(missing_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=self.path.parent, prefix=f".{self.path.name}.", delete=False) as file:
            try:
                file.write(text)
                file.close()
                with self._listing:
                    os.replace(file.name, self.path)
                    self._pending = [each for each in self._pending if id(each) not in names]
            except BaseException:
                with suppress(OSError):
                    os.unlink(file.name)
                raise

    def _unusable(self, error: OSError) -> str:
        place = NO_HOME if self._path is None else f"{self._path}: {error.strerror or error}"
        return f"cannot keep latencies in {place}; set ANYFLOW_RT_STATE to a directory you may write to"

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            _log.warning("%s", message)


def _later(profile: Profile, runs: Sequence[tuple[Setting, RunTimes, FirstCalls | None]]) -> Profile:
    for setting, run, first in runs:
        profile = profile.with_run(setting, run if run != RunTimes() else None, first)
    return profile


def _identity(identity: Identity) -> dict[str, Any]:
    return {
        "bundle_id": identity.bundle_id,
        "device": identity.device,
        "machine": identity.machine,
        "versions": dict(identity.versions),
    }


def _as_json(setting: Setting, history: History) -> dict[str, Any]:
    runs = bounded(history.runs, STORED_JUMPS)
    return {
        "setting": asdict(setting),
        "runs": [
            [
                *map(_round, (run.text, run.conditioner)),
                list(map(_round, run.jumps)),
                *map(_round, (run.decode, run.encode)),
            ]
            for run in runs
        ],
        "first": [{name: _first_value(value) for name, value in asdict(each).items()} for each in history.first],
    }


def _profile(value: Mapping[str, Any]) -> Profile:
    histories = {}
    for each in value["profiles"]:
        runs = tuple(
            RunTimes(text, conditioner, tuple(jumps), decode, encode)
            for text, conditioner, jumps, decode, encode in each["runs"]
        )
        first = tuple(FirstCalls(**calls) for calls in each["first"])
        histories[_setting(each["setting"])] = History(bounded(runs), first)
    return Profile(histories)


def _setting(value: Mapping[str, Any]) -> Setting:
    found = Setting(**value)
    numbers = (found.frames, found.height, found.width, found.batch)
    texts = (found.engine, found.precision)
    if not all(type(each) is int and each > 0 for each in numbers) or not all(isinstance(each, str) for each in texts):
        raise ValueError(f"a setting is {dict(value)!r}")
    return found


def _first_value(value: float | bool | None) -> float | bool | None:
    return value if isinstance(value, bool) else _round(value)


def _round(seconds: float | None) -> float | None:
    return None if seconds is None else float(f"{seconds:.5g}")
