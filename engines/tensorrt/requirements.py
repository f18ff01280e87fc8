"""May these engines run here? Checked before any is loaded; each answer is one sentence with the mend."""

from __future__ import annotations

from pathlib import Path

from anyflow_rt.engines.mend import mend_of
from anyflow_rt.engines.tensorrt.record import EngineFacts
from anyflow_rt.errors import EngineError

LEAST_DRIVER = 580
"""Major version of the driver that both packages' CUDA 13 builds need."""


def check_requirements(
    facts: EngineFacts, path: Path, *, installed: str, present: str | None, driver: str | None
) -> None:
    """Raise EngineError unless the engine ``path`` can run.

    installed: the version of its package; present: this machine's GPU (``sm_89``); driver: its driver's version, None
    where nobody could say.
    """
    if present is None:
        raise EngineError(
            f"the {facts.package} engine needs an NVIDIA GPU and this machine shows none; leave out --engine to run on "
            "the CPU, or run on the GPU's machine"
        )
    if present != facts.target:
        raise EngineError(
            f"the engine {path} is for {facts.target} and this machine's GPU is {present}; add one with  --target "
            f"{present}: {mend_of(path)}"
        )
    if driver is not None and driver.split(".")[0].isdigit() and int(driver.split(".")[0]) < LEAST_DRIVER:
        raise EngineError(
            f"the NVIDIA driver is {driver} and {facts.package} needs {LEAST_DRIVER} or later; update the driver"
        )
    if not _compatible(facts, installed):
        raise EngineError(
            f"the engine {path} was built with {facts.package} {facts.version} and {installed} is installed: run  "
            f"pip install {facts.package.replace('_', '-')}=={facts.version}  or {mend_of(path)}"
        )


def _compatible(facts: EngineFacts, installed: str) -> bool:
    """The same major and minor version; any later one of that major where the engine was built for that."""
    built, here = (tuple(int(part) for part in version.split(".")[:2]) for version in (facts.version, installed))
    if facts.settings.get("version_compatible"):
        return built[0] == here[0] and built <= here
    return built == here
