"""May these engines run here? Checked before any is loaded; each answer is one sentence with the mend."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from anyflow_rt.engines.gpu import driver_version, present_target
from anyflow_rt.engines.targets import GPU_TARGETS
from anyflow_rt.engines.tensorrt.mending import engine_mend
from anyflow_rt.engines.tensorrt.package import PACKAGE_TARGETS, import_package
from anyflow_rt.engines.tensorrt.profile_names import covers
from anyflow_rt.engines.tensorrt.record import EngineFacts, read_facts
from anyflow_rt.errors import EngineError

LEAST_DRIVERS = {13: 580, 12: 535}
"""Major version of the driver that builds for a major version of CUDA need: 580 for CUDA 13, 535 for the wheels of CUDA
12, as TensorRT 11.4 documents it (docs.nvidia.com/deeplearning/tensorrt/11.4.0/installing-tensorrt/prerequisites.html).
TensorRT for RTX documents no number ("appropriate GPU drivers", .../tensorrt-rtx/1.4/installing-tensorrt-rtx/
prerequisites.html); that its builds for the same CUDA need the same driver is assumed."""


def require_runnable(engine: str, file: Path) -> EngineFacts:
    """How the engines beside ``file`` were built, once it is known that they can run here: GPU, driver, package and
    version. Loads no engine. Raises EngineError and MissingPackageError, with the mend."""
    facts = read_facts(file.parent)
    installed = import_package(engine).__version__
    check_requirements(
        facts,
        file,
        installed=installed,
        present=present_target(),
        driver=driver_version(),
        distribution=distribution_of(engine),
    )
    return facts


def distribution_of(package: str) -> str:
    """Which of its distributions is installed, ``tensorrt_rtx_cu13`` say; the package itself where none is known."""
    for cuda in LEAST_DRIVERS:
        for name in (f"{package}_cu{cuda}", f"{package}_cu{cuda}_bindings"):
            try:
                importlib.metadata.distribution(name)
            except importlib.metadata.PackageNotFoundError:
                continue
            return f"{package}_cu{cuda}"
    return package


def _least_driver(distribution: str) -> int:
    cuda = distribution.rpartition("_cu")[2]
    return LEAST_DRIVERS.get(int(cuda) if cuda.isdigit() else 0, max(LEAST_DRIVERS.values()))


def check_requirements(
    facts: EngineFacts, path: Path, *, installed: str, present: str | None, driver: str | None, distribution: str
) -> None:
    """Raise EngineError unless the engine ``path`` can run.

    installed: the version of its package; present: this machine's GPU (``sm_89``); driver: its driver's version, None
    where nobody could say; distribution: of ``distribution_of``.
    """
    if present is None:
        raise EngineError(
            f"the {facts.package} engine needs an NVIDIA GPU and this machine shows none; leave out --engine to run on "
            "the CPU, or run on the GPU's machine"
        )
    if present != facts.target and not covers(str(facts.settings.get("hardware")), present):
        other = f"the engine {path} is for {facts.target} and this machine's GPU is {present}"
        if present not in GPU_TARGETS:
            raise EngineError(f"{other}, for which none can be built yet; leave out --engine to run on the CPU")
        raise EngineError(
            f"{other}; it has to have its own: "
            f"{engine_mend(path, target=present, engine=_engine_for(facts.package, present), force=False)}"
        )
    least = _least_driver(distribution)
    if driver is not None and driver.split(".")[0].isdigit() and int(driver.split(".")[0]) < least:
        raise EngineError(f"the NVIDIA driver is {driver} and {distribution} needs {least} or later; update the driver")
    if not _compatible(facts, installed):
        raise EngineError(
            f"the engine {path} was built with {facts.package} {facts.version} and {installed} is installed: run  "
            f"pip install {facts.package.replace('_', '-')}=={facts.version}  or {engine_mend(path)}"
        )


def _engine_for(package: str, target: str) -> str:
    """The same package where it has the target; else the build chooses."""
    return package if target in PACKAGE_TARGETS[package] else ""


def _compatible(facts: EngineFacts, installed: str) -> bool:
    """The same major and minor version; any later one of that major where the engine was built for that."""
    built, here = (tuple(int(part) for part in version.split(".")[:2]) for version in (facts.version, installed))
    if facts.settings.get("version_compatible"):
        return built[0] == here[0] and built <= here
    return built == here
