"""What ``bench kernels`` asks of an op before it takes its time, asked of every op at the shipped shape."""

from __future__ import annotations

import math

import pytest
import torch
from support.kernels import DEVICE

from anyflow_rt.benchmarks.kernels.parity import Parity, largest_error, mean_square_error, parity_of, with_numbers
from anyflow_rt.errors import ParityError
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
    assert found.holds and found.error <= found.allowed < 0.03
    outputs = ("updated", "normalised", "values", "output", "query")
    made = next(launch.tensors[each] for each in outputs if each in launch.tensors)
    right = made.clone()
    made.copy_(made.roll(1, dims=1) if made.dtype == torch.int8 else 1.1 * made)
    assert not parity_of(op, launch, arguments).holds
    if made.dtype == torch.int8:
        return
    for nothing in (torch.nan, torch.inf, -torch.inf):
        made.copy_(right).view(-1)[0] = nothing
        wrong = parity_of(op, launch, arguments)
        assert wrong.error == math.inf and not wrong.holds
        with pytest.raises(ParityError, match=r"it is off by inf \(allowed .*\); no times"):
            wrong.require("it")


def test_an_error_that_is_no_number_does_not_hold() -> None:
    assert not Parity(math.nan, 1e-2).holds
    assert Parity(0.0, 1e-2).holds
    zeros, ones = torch.zeros(3), torch.ones(3)
    assert largest_error(ones, zeros) == mean_square_error(ones, zeros) == math.inf
    assert largest_error(zeros, zeros) == math.inf, "nothing to compare with proves nothing"
