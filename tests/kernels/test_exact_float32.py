"""Float32 stays float32 while anybody asks for it, in whatever order they come and go."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from anyflow_rt.engines.exact_float32 import exact_float32


@pytest.fixture(autouse=True)
def shortened() -> Iterator[None]:
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    yield
    torch.backends.cudnn.conv.fp32_precision = before


def precision() -> str:
    return torch.backends.cudnn.conv.fp32_precision


def test_it_may_be_entered_again() -> None:
    with exact_float32():
        with exact_float32():
            assert precision() == "ieee"
        assert precision() == "ieee", "the outer one still asks for it"
    assert precision() == "tf32"
    with pytest.raises(ZeroDivisionError), exact_float32():
        raise ZeroDivisionError
    assert precision() == "tf32"


def test_it_may_be_left_in_any_order() -> None:
    """The first to come is the first to leave, in threads of their own."""
    first, second = exact_float32(), exact_float32()
    seen = []
    for step in (first.__enter__, second.__enter__, lambda: first.__exit__(None, None, None)):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
        seen.append(precision())
    second.__exit__(None, None, None)
    assert seen == ["ieee"] * 3 and precision() == "tf32"
