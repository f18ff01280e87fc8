"""The command that makes a bundle's TensorRT engine again as it was built, or with something changed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.engines.manifest import MANIFEST_NAME
from anyflow_rt.engines.mend import mend_of
from anyflow_rt.engines.tensorrt.profile_names import read_profile_name

RECORD = "engine.json"
PORTABLE = ("smallest", "largest", "batch", "prompt_lengths", "cross_keys", "optimization_level", "weight_streaming")
"""Settings that engines of every target and package have."""
_OWN = ("refit", "strip", "version_compatible", "hardware", "triton_kernels")
_USUAL = {"batch": 1, "prompt_lengths": [32, 64, 128, 256, 512], "cross_keys": "collapsed"}
_USUAL |= {"hardware": "none", "triton_kernels": "none"}


def engine_mend(
    file: Path,
    *,
    target: str | None = None,
    engine: str | None = None,
    force: bool = True,
    size: VideoSize | None = None,
    **changes: Any,
) -> str:
    """What to do about a file of an engine that is made of its bundle's graphs: the command that makes that engine
    again, with its own target, kind, size and settings, or with others. No checkpoint is needed.

    engine: "" is for the build to choose. size: of one for that size alone, beside this one. changes: settings that
    are to be others.
    """
    folder = file.absolute().parent
    bundle = next((each.parent for each in folder.parents[:2] if each.name == "engines"), None)
    if bundle is None or not (bundle / MANIFEST_NAME).is_file():
        return mend_of(file)
    own, precision, profile = (*folder.name.split("-", 2), "", "")[:3]
    sizes = read_profile_name(profile).sizes if size is None else (size,)
    force = force and size is None
    changes |= {} if size is None else {"smallest": None, "largest": None}
    words = ["anyflow-rt", "build", *_source(bundle, sizes), "--target", target or folder.parent.name]
    words += ["--engine", engine or own] if engine != "" else []
    words += ["--precision", precision] if force or size is not None else []
    names = PORTABLE if target is not None or engine is not None else PORTABLE + _OWN
    words += _flags({**_read(folder / RECORD, "settings"), **changes}, names)
    return f"{'make' if force else 'add'} it with  {shlex.join([*words, *(['--force'] if force else [])])}"


def _source(bundle: Path, sizes: tuple[VideoSize, ...]) -> list[str]:
    """The flags that say what of, and for which size where that is not the bundle's own."""
    defaults = _read(bundle / MANIFEST_NAME, "defaults")
    own = {name: defaults.get(name) for name in VideoSize.__dataclass_fields__}
    words = ["--bundle", str(bundle)]
    if len(sizes) == 1 and None not in own.values() and asdict(sizes[0]) != own:
        for name, value in asdict(sizes[0]).items():
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def _flags(settings: Mapping[str, Any], names: tuple[str, ...]) -> list[str]:
    """The flags of ``anyflow-rt build`` for those of ``settings``, as engine.json has them, that are not the usual."""
    words = []
    for name in names:
        value = settings.get(name)
        if value is None or value is False or value == _USUAL.get(name):
            continue
        words.append(f"--{name.replace('_', '-')}")
        if isinstance(value, Mapping):
            value = "x".join(str(value.get(each)) for each in VideoSize.__dataclass_fields__)
        words += [] if value is True else [",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return words


def _read(path: Path, name: str) -> dict[str, Any]:
    """An object of a JSON file; nothing where the file is damaged, which others complain of."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))[name]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
