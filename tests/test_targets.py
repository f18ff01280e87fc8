"""Names of targets, one or several, and those that are none."""

from __future__ import annotations

import pytest

from anyflow_rt.engines.targets import GPU_TARGETS, TARGETS, capability, parse_targets
from anyflow_rt.errors import UsageError


def test_targets_are_read_once_each_in_their_order() -> None:
    assert parse_targets("cpu") == ("cpu",)
    assert parse_targets("sm_89, cpu,sm_89") == parse_targets(["sm_89", "cpu"]) == ("sm_89", "cpu")
    assert parse_targets(",".join(TARGETS)) == TARGETS
    assert [capability(target) for target in GPU_TARGETS] == [75, 80, 86, 89, 90, 100, 120, 121]


@pytest.mark.parametrize("names", ["", "gpu", "sm_70", "sm_89,", "89", "SM_89", "sm_89 sm_90"])
def test_anything_else_is_refused_with_the_targets_there_are(names: str) -> None:
    with pytest.raises(UsageError, match=r"unknown target .*; the targets are cpu, sm_75, sm_80, .*, sm_121$"):
        parse_targets(names)


def test_refusals_of_what_is_no_gpu_and_of_nothing() -> None:
    with pytest.raises(UsageError, match="'cpu' is no GPU; the GPU targets are sm_75"):
        capability("cpu")
    with pytest.raises(UsageError, match="no target is given"):
        parse_targets(())
