"""Our kernels inside enterprise TensorRT's engines, on the GPU of this machine. ``pytest -m gpu tests/gpu``."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyflow_rt.build import build
from anyflow_rt.build_plan import BuildOptions
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.gpu import present_target
from anyflow_rt.engines.kernel_nodes.rewrite import expected_nodes
from anyflow_rt.engines.kernel_nodes.sets import KERNEL_SETS, NONE
from anyflow_rt.engines.tensorrt.builders import TENSOR_MEMORY_TARGETS
from anyflow_rt.engines.tensorrt.package import ENTERPRISE
from anyflow_rt.engines.tensorrt.record import RECORD, read_facts
from anyflow_rt.engines.tensorrt.settings import TensorRtSettings
from anyflow_rt.engines.triton_build import TARGETS
from anyflow_rt.loading import SHAPES_CHECKPOINT
from anyflow_rt.runtime import Runtime

pytestmark = pytest.mark.gpu
PROMPT, STEPS = "a large red circle moving right on a black background", 4


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """The shapes checkpoint's, with each set of kernels that this GPU has."""
    target = present_target()
    if target is None or target not in TARGETS:
        pytest.skip(f"needs an NVIDIA GPU of {', '.join(TARGETS)}; here is {target}")
    if importlib.util.find_spec(ENTERPRISE) is None:
        pytest.skip("needs enterprise TensorRT: pip install 'anyflow-rt[tensorrt]'")
    made = {}
    for kernels in KERNEL_SETS if target not in TENSOR_MEMORY_TARGETS else KERNEL_SETS[:-1]:
        options = BuildOptions(
            checkpoint=str(SHAPES_CHECKPOINT),
            out=Path(tmp_path_factory.mktemp("gpu") / kernels),
            targets=(target,),
            engine=ENTERPRISE,
            check_parity=False,
            calibrate=False,
            tensorrt=TensorRtSettings(triton_kernels=kernels),
        )
        made[kernels] = Bundle.open(build(options, print).path)
    return made


def test_kernels_are_in_the_engine_and_give_the_same(bundles: dict[str, Bundle]) -> None:
    with Runtime(bundles[NONE], engine="onnxruntime", precision="fp32") as runtime:
        wanted = runtime.generate(PROMPT, steps=STEPS, seed=1).latents
    found: dict[str, Any] = {}
    for kernels, bundle in bundles.items():
        config = bundle.architecture.transformer
        (record,) = (file.path for file in bundle.manifest.engines[0].files if file.path.endswith(RECORD))
        facts = read_facts((bundle.path / record).parent).components["denoiser"]
        assert facts["kernels"] == expected_nodes(config.num_layers, config.cross_attn_norm, kernels)
        with Runtime(bundle, engine=ENTERPRISE) as runtime:
            first = runtime.generate(PROMPT, steps=STEPS, seed=1)
            runtime.generate(PROMPT, steps=STEPS, seed=1)  # the second time graphs are captured
            again = runtime.generate(PROMPT, steps=STEPS, seed=1)
        assert np.array_equal(first.latents, again.latents), "a replayed graph gives the same bits"
        error = np.linalg.norm(first.latents - wanted) / np.linalg.norm(wanted)
        jumps = [round(1e3 * seconds, 3) for seconds in again.seconds.jumps]
        found[kernels] = {"error": float(error), "milliseconds": jumps, "kernels": sum(facts["kernels"].values())}
        print(json.dumps({"triton_kernels": kernels, **found[kernels]}))
        assert error < 0.03
    assert all(each["kernels"] > 0 for kernels, each in found.items() if kernels != NONE)
