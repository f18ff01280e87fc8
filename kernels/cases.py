"""Every launch that is compiled ahead of time: the cases of every op."""

from __future__ import annotations

import importlib

import torch

from anyflow_rt.errors import UsageError
from anyflow_rt.kernels.video_shapes import Case

OPS = ("flow_map_update", "adaptive_norm", "qk_norm_rope", "attention")


def ops_of(names: str) -> tuple[str, ...]:
    """Ops by comma, or ``all``; ``cases_of`` refuses those that are not there."""
    return OPS if names == "all" else tuple(name.strip() for name in names.split(","))


def cases_of(op: str, dtype: torch.dtype = torch.bfloat16) -> list[Case]:
    """The cases of one op. Raises UsageError for an op that is not there."""
    if op not in OPS:
        raise UsageError(f"unknown op {op!r}; the ops are {', '.join(OPS)}")
    found: list[Case] = importlib.import_module(f"anyflow_rt.kernels.{op}.shapes").cases(dtype)
    return found
