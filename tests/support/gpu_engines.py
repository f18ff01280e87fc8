"""Engines of TensorRT for the GPU of this machine, from a shipped checkpoint."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from anyflow_rt.build import build
from anyflow_rt.build_plan import BuildOptions
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.gpu import present_target
from anyflow_rt.engines.tensorrt.package import PACKAGE_TARGETS


def built_here(checkpoint: str, package: str, out: Path, **options: Any) -> Bundle:
    """The checkpoint's bundle in ``out``, with an engine of ``package``; skips where there is no GPU, or no package
    for it. options: of ``BuildOptions``."""
    target = present_target()
    if target is None:
        pytest.skip("needs an NVIDIA GPU and its driver")
    if importlib.util.find_spec(package) is None or target not in PACKAGE_TARGETS[package]:
        pytest.skip(f"{package} is not installed or has no {target}")
    asked = BuildOptions(
        checkpoint=checkpoint,
        out=out,
        targets=(target,),
        engine=package,
        check_parity=False,
        calibrate=False,
        **options,
    )
    return Bundle.open(build(asked, print).path)
