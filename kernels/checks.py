"""What a tensor must be before a kernel may see its address: every refusal names the argument, its value and the mend.

A kernel reads plain memory. It takes for granted what is checked here: type, shape, dense storage, and an address that
is a multiple of 16 bytes, the widest access of a GPU thread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from anyflow_rt.errors import EngineError

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
"""The types of activations."""

ALIGNMENT = 16
"""Bytes."""

LARGEST_INDEX = 2**31 - 1
"""What a kernel counts to in 32 bits: places within a block, rows of a tensor. Offsets from its start are of 64."""


def check_tensor(name: str, tensor: Tensor, shape: Sequence[int | str], dtypes: Sequence[torch.dtype]) -> None:
    """Raise EngineError unless ``tensor`` is dense, aligned, of ``shape`` (a string is a free dimension) and dtype."""
    check_dtype(name, tensor, dtypes)
    check_shape(name, tensor, shape)
    if not tensor.is_contiguous():
        raise EngineError(
            f"{name} has strides {tuple(tensor.stride())} at shape {tuple(tensor.shape)}; "
            f"a contiguous tensor is needed: pass {name}.contiguous()"
        )
    check_address(name, tensor)


def check_dtype(name: str, tensor: Tensor, dtypes: Sequence[torch.dtype]) -> None:
    """Raise EngineError unless ``tensor`` is a torch tensor of one of ``dtypes``."""
    if not isinstance(tensor, Tensor):
        raise EngineError(f"{name} is a {type(tensor).__name__}; a torch.Tensor is needed")
    if tensor.dtype not in dtypes:
        accepted = ", ".join(_short(dtype) for dtype in dtypes)
        raise EngineError(f"{name} is {_short(tensor.dtype)}; accepted: {accepted}")


def check_shape(name: str, tensor: Tensor, shape: Sequence[int | str]) -> None:
    """Raise EngineError unless the sizes are those of ``shape``, where strings are free."""
    fits = tensor.ndim == len(shape) and all(
        isinstance(wanted, str) or wanted == size for wanted, size in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        accepted = ", ".join(str(wanted) for wanted in shape)
        raise EngineError(f"{name} has shape {tuple(tensor.shape)}; accepted: ({accepted})")


def check_address(name: str, tensor: Tensor) -> None:
    """Raise EngineError unless the first element lies at a multiple of ``ALIGNMENT`` bytes."""
    if tensor.device.type != "meta" and tensor.numel() and tensor.data_ptr() % ALIGNMENT:
        raise EngineError(
            f"{name} begins {tensor.data_ptr() % ALIGNMENT} bytes past a multiple of {ALIGNMENT}; "
            f"an aligned address is needed: pass {name}.clone()"
        )


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise EngineError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise EngineError(f"{name} is {value!r}; accepted: {', '.join(repr(choice) for choice in choices)}")


def check_kind(name: str, value: object, *kinds: type) -> None:
    """Raise EngineError unless ``value`` is of one of ``kinds``."""
    if not isinstance(value, kinds):
        accepted = " or ".join(kind.__name__ for kind in kinds)
        raise EngineError(f"{name} is {_told(value)}; accepted: {accepted}")


def check_number(name: str, value: object, least: float | None = None) -> None:
    """Raise EngineError unless ``value`` is a finite number, of at least ``least`` where that is given."""
    number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not number or (least is not None and float(value) < least):  # type: ignore[arg-type]
        bound = "" if least is None else f" of at least {least:g}"
        raise EngineError(f"{name} is {_told(value)}; accepted: a finite number{bound}")


def check_whole(name: str, value: object, least: int, most: int) -> None:
    """Raise EngineError unless ``value`` is a whole number from ``least`` to ``most``."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise EngineError(f"{name} is {_told(value)}; accepted: whole numbers from {least} to {most}")


def check_same_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raise EngineError unless both tensors are on one device."""
    if tensor.device != other.device:
        raise EngineError(f"{name} is on {tensor.device}, {other_name} on {other.device}; one device is needed")


def check_index(what: str, number: int) -> None:
    """Raise EngineError unless ``number`` is at most ``LARGEST_INDEX``; beyond it an index would wrap around."""
    if number > LARGEST_INDEX:
        raise EngineError(f"{what} is {number}; accepted: at most {LARGEST_INDEX}, what kernels count to")


def _told(value: object) -> str:
    """A value for a message: tensors, and whatever else is long, by their type."""
    text = repr(value)
    return f"a {type(value).__name__}" if isinstance(value, Tensor) or len(text) > 60 else text


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
