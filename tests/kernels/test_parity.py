"""What ``bench kernels`` asks of an op before it takes its time, asked of every op at the shipped shape."""

from __future__ import annotations

import pytest
import torch
from support.kernels import DEVICE

from anyflow_rt.benchmarks.kernels.parity import parity_of, with_numbers
from anyflow_rt.kernels.cases import OPS, cases_of
from anyflow_rt.kernels.video_shapes import SHIPPED

CASES = {f"{op}: {case.name}": (op, case) for op in OPS for case in cases_of(op) if case.name.startswith(SHIPPED.name)}


@pytest.mark.parametrize("name", CASES)
def test_every_op_passes_its_check_and_fails_when_it_is_wrong(name: str) -> None:
    op, case = CASES[name]
    arguments = {key: with_numbers(value, seed, DEVICE) for seed, (key, value) in enumerate(case.arguments.items())}
    launch = case.plan(**arguments)
    launch.run()
    found = parity_of(op, launch, arguments)
    assert found.error <= found.allowed < 0.03
    outputs = ("updated", "normalised", "values", "output", "query")
    made = next(launch.tensors[each] for each in outputs if each in launch.tensors)
    made.copy_(made.roll(1, dims=1) if made.dtype == torch.int8 else 1.1 * made)
    assert parity_of(op, launch, arguments).error > found.allowed
