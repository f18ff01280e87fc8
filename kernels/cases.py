"""Every launch that is compiled ahead of time: the cases of every op."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace
from typing import Any

import torch

from anyflow_rt.errors import UsageError
from anyflow_rt.kernels.video_shapes import Case, VideoShape

OPS = ("flow_map_update", "adaptive_norm", "qk_norm_rope", "attention")


DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
DTYPE = "bf16"
"""Of activations, unless asked otherwise."""


def ops_of(names: str) -> tuple[str, ...]:
    """Ops by comma, or ``all``; ``cases_of`` refuses those that are not there."""
    return OPS if names == "all" else tuple(name.strip() for name in names.split(","))


def cases_of(op: str, dtype: torch.dtype = torch.bfloat16) -> list[Case]:
    """The cases of one op. Raises UsageError for an op that is not there."""
    found: list[Case] = _shapes_of(op).cases(dtype)
    return found


def shape_cases_of(op: str, shape: VideoShape, dtype: torch.dtype = torch.bfloat16) -> list[Case]:
    """The cases of one op at one video shape, which need not be of ``VIDEO_SHAPES``. Raises as ``cases_of``."""
    found: list[Case] = _shapes_of(op).shape_cases(shape, dtype)
    return found


def _shapes_of(op: str) -> Any:
    if op not in OPS:
        raise UsageError(f"unknown op {op!r}; the ops are {', '.join(OPS)}")
    return importlib.import_module(f"anyflow_rt.kernels.{op}.shapes")


def selected_cases(op: str, pattern: str, dtype: str = DTYPE) -> list[tuple[str, Case]]:
    """(op, case) of the ops by comma whose case's name holds the regular expression ``pattern``.

    Cases of another type than ``DTYPE`` carry it in their name. Raises UsageError for an op or a type that is not
    there, and where no case is left.
    """
    if dtype not in DTYPES:
        raise UsageError(f"unknown type {dtype!r}; the types are {', '.join(DTYPES)}")
    suffix = "" if dtype == DTYPE else f" {dtype}"
    chosen = [
        (name, replace(case, name=case.name + suffix))
        for name in ops_of(op)
        for case in cases_of(name, DTYPES[dtype])
        if re.search(pattern, case.name)
    ]
    if not chosen:
        known = ", ".join(case.name for name in ops_of(op) for case in cases_of(name))
        raise UsageError(f"no case of {op} has a name that holds {pattern!r}; there are {known}")
    return chosen
