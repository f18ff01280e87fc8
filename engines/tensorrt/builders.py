"""The two TensorRTs as engine builders."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from anyflow_rt.engines.builders import Builder, BuildSource, Report
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.engines.gpu import present_target
from anyflow_rt.engines.kernel_nodes.sets import ATTENTION, NONE, NORMS
from anyflow_rt.engines.tensorrt.build import PRECISIONS, build_engines
from anyflow_rt.engines.tensorrt.package import (
    ENTERPRISE,
    EXTRAS,
    PACKAGE_TARGETS,
    RTX,
    describe_choice,
    import_package,
    require_present,
)
from anyflow_rt.engines.tensorrt.profile_names import covers
from anyflow_rt.engines.tensorrt.settings import TensorRtSettings
from anyflow_rt.engines.triton_build import TARGETS as KERNEL_TARGETS
from anyflow_rt.errors import MissingPackageError, UsageError

TENSOR_MEMORY_TARGETS = ("sm_100",)
"""Where Triton 3.9 keeps the sums of matrix products in tensor memory."""


def _build_rtx(source: BuildSource, target: str, precision: str, folder: Path, report: Report) -> dict[str, str]:
    report(describe_choice(RTX, target))
    return build_engines(RTX, source, target, precision, folder, report)


def _build_enterprise(source: BuildSource, target: str, precision: str, folder: Path, report: Report) -> dict[str, str]:
    report(describe_choice(ENTERPRISE, target))
    return build_engines(ENTERPRISE, source, target, precision, folder, report)


def _ready(engine: str) -> Callable[[str], None]:
    def check(target: str) -> None:
        if engine == ENTERPRISE:
            require_present(target, present_target())
        import_package(engine)

    return check


def _check(target: str, settings: TensorRtSettings) -> None:
    """Raise for settings that engines for ``target`` cannot have: a hardware level without it, kernels of ours that
    cannot be compiled for it here."""
    if settings.hardware == "ampere_plus" and not covers(settings.hardware, target):
        raise UsageError(f"hardware ampere_plus begins with sm_80 and the target is {target}; leave out --hardware")
    if settings.triton_kernels == NONE:
        return
    if target not in KERNEL_TARGETS:
        raise UsageError(
            f"there are no Triton kernels for {target}, only for {', '.join(KERNEL_TARGETS)}; leave out "
            "--triton-kernels"
        )
    if settings.triton_kernels == ATTENTION and target in TENSOR_MEMORY_TARGETS:
        raise UsageError(
            f"the attention kernel for {target} takes tensor memory, which TensorRT gives no plugin; use "
            f"--triton-kernels {NORMS}"
        )
    for package in ("torch", "triton"):
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(package, EXTRAS[ENTERPRISE], "building with --triton-kernels")


def _profile(engine: str) -> Callable[[VideoSize, TensorRtSettings], str]:
    def name(size: VideoSize, settings: TensorRtSettings) -> str:
        # Asked while a build is planned: what the package does not have is refused before any work.
        settings.check_package(engine)
        return settings.profile_name(size)

    return name


RTX_BUILDER, ENTERPRISE_BUILDER = (
    Builder(
        targets=PACKAGE_TARGETS[engine],
        precisions=PRECISIONS,
        packages=(engine, "onnx"),
        extra=EXTRAS[engine],
        build=build,
        # sm_75 has no bf16.
        unusual={"sm_75": "fp16"},
        profile=_profile(engine),
        check=_check,
        ready=_ready(engine),
        from_graphs=True,
    )
    for engine, build in ((RTX, _build_rtx), (ENTERPRISE, _build_enterprise))
)
