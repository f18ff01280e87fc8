"""What a build will take of a disk, against what builds took."""

from __future__ import annotations

from anyflow_rt.build_estimate import WantedEngine, estimate
from anyflow_rt.engines.checkpoint import load_checkpoint
from anyflow_rt.shipped import shipped


def test_the_fixed_size_of_engines_is_counted() -> None:
    """The shapes checkpoint's for sm_89 took 91.8 MB."""
    architecture = load_checkpoint(str(shipped("shapes"))).architecture

    def disk(*targets: str, lengths: tuple[int, ...] = (32, 64, 128, 256, 512), engine: str = "tensorrt_rtx") -> int:
        engines = [WantedEngine(target, engine, "bf16") for target in targets]
        return estimate(architecture, exports=False, engines=engines, prompt_lengths=lengths).disk

    assert 91.8e6 < disk("sm_89", lengths=(32,)) < disk("sm_89") < 300e6
    assert disk("sm_89", "sm_120") - disk("sm_89") > 91.8e6
    assert disk("sm_89", engine="triton") < 91.8e6
