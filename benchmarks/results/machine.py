"""What a result depends on besides the program: the machine, package versions, the project's commit.

Nothing here fails where something is not known: it says "unknown", or leaves it out.
"""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from anyflow_rt import __version__
from anyflow_rt.benchmarks.results.gpu import describe_gpus
from anyflow_rt.benchmarks.results.values import UNKNOWN, Machine

PACKAGES = (
    "anyflow-rt",
    "openvino",
    "onnxruntime",
    "tensorrt",
    "triton",
    "torch",
    "diffusers",
    "transformers",
    "numpy",
    "scipy",
    "scikit-image",
    "av",
)
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
"""Instruction sets, as Linux names them, that decide how fast matrix products are."""


def describe_machine() -> Machine:
    """This machine, as far as it says."""
    facts = _processor_facts()
    flags = facts.get("flags", "").split()
    return Machine(
        processor=facts.get("model name") or platform.processor() or UNKNOWN,
        cores=_cores(),
        instructions=tuple(flag for flag in INSTRUCTIONS if flag in flags),
        memory=_memory(),
        system=platform.platform() or UNKNOWN,
        gpus=describe_gpus(),
    )


def package_versions() -> dict[str, str]:
    """Python's version and those of the installed packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def project_commit(folder: Path | None = None) -> str:
    """The commit of the checkout that ``folder`` (default: this package) is a part of, with "-dirty" where tracked
    files differ from it; "version X" for an installed package."""
    here = Path(__file__).resolve().parent if folder is None else folder
    # An installed package may lie inside somebody's own repository, which does not track it.
    if not _git(here, "ls-files", "--error-unmatch", "machine.py"):
        return f"version {__version__}"
    commit = _git(here, "rev-parse", "HEAD")
    changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if commit and changed else commit or UNKNOWN


def _git(folder: Path, *arguments: str) -> str:
    """What git says, empty where it fails or is not there."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def _processor_facts() -> dict[str, str]:
    """The first processor of /proc/cpuinfo, empty where that is not there."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    facts: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    return facts


def _cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None
