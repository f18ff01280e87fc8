"""Random checkpoints for every GPU that TensorRT for RTX builds for: all components, targets sharing one export.

Here each checkpoint is built for two targets, so that each target gets two. All for all takes minutes:

    pytest -m slow tests/test_tensorrt_targets.py
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.bundles import random_bundle
from support.checkpoints import CONFIGURATIONS

from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.engines.stages import ENCODE, RUN_COMPONENTS
from anyflow_rt.engines.tensorrt.builders import RTX_BUILDER
from anyflow_rt.engines.tensorrt.compiler import compile_engine
from anyflow_rt.engines.tensorrt.package import PACKAGE_TARGETS, RTX, import_package
from anyflow_rt.engines.tensorrt.profiles import profiles
from anyflow_rt.engines.tensorrt.settings import TensorRtSettings
from anyflow_rt.engines.typed.graph import write_typed_graph

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec(RTX) is None,
    reason="needs the package tensorrt_rtx: pip install 'anyflow-rt[tensorrt-rtx]'",
)

TARGETS = PACKAGE_TARGETS[RTX]
SIZE = VideoSize(9, 64, 64)
CHEAPEST = TensorRtSettings(prompt_lengths=(32,), optimization_level=0)
SPREAD = (
    "no_cross_norm",
    "three_scales",
    "residual_patched_vae",
    "patched_vae",
    "residual_vae",
    "eight_channels",
)
PAIRS = {name: (TARGETS[index % 6], TARGETS[(index + 2) % 6]) for index, name in enumerate(SPREAD)}
SINGLE_HEAD = ("one_head_one_layer", "wide_head")
"""No kernel has a single head: every one of their attentions is taken apart."""


def build_for(configuration: str, targets: Sequence[str], folder: Path) -> None:
    """All components for ``targets``, typed once for those of one precision; the denoiser's attentions fused."""
    bundle, trt = Bundle.open(random_bundle(configuration).path), import_package(RTX)
    # One encoder is much like another; the residual one is what a cheap test can add.
    components = (*RUN_COMPONENTS, *(ENCODE if bundle.architecture.vae.is_residual else ()))
    attentions = 2 * bundle.architecture.transformer.num_layers
    precisions = {target: RTX_BUILDER.usual_precision(target) for target in targets}
    for precision in dict.fromkeys(precisions.values()):
        for component in components:
            graph = folder / f"{component}-{precision}.onnx"
            typed = write_typed_graph(component, bundle.component_path(component), graph, precision)
            if component == "denoiser":
                wanted = (0, attentions) if configuration in SINGLE_HEAD else (attentions, 0)
                assert (typed.fused, typed.decomposed) == wanted
            shapes = profiles(component, graph, bundle.architecture, SIZE, CHEAPEST)
            for target in (target for target, kind in precisions.items() if kind == precision):
                made = compile_engine(trt, graph, folder / f"{component}.engine", target, shapes, CHEAPEST)
                assert made.size > 10_000 and made.attentions == typed.fused + typed.decomposed, target


def test_every_target_has_several_checkpoints_and_every_checkpoint_several_targets() -> None:
    for target in TARGETS:
        assert sum(target in targets for targets in PAIRS.values()) >= 2, target
    assert all(len(set(targets)) == 2 for targets in PAIRS.values())


@pytest.mark.parametrize("configuration", PAIRS)
def test_random_checkpoints(configuration: str, tmp_path: Path) -> None:
    build_for(configuration, PAIRS[configuration], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("configuration", sorted(CONFIGURATIONS))
def test_all_for_all(configuration: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("markexpr") != "slow":
        pytest.skip("takes minutes: pytest -m slow tests/test_tensorrt_targets.py")
    build_for(configuration, TARGETS, tmp_path)
