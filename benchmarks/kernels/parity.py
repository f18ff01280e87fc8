"""Whether a launch computed what its reference computes: asked before its time is taken."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anyflow_rt.errors import ParityError
from anyflow_rt.kernels.attention.checks import Past
from anyflow_rt.kernels.attention.int8 import ERROR
from anyflow_rt.kernels.launch import Launch
from anyflow_rt.kernels.work import constants_of

ALLOWED = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Largest difference over the largest value of the reference, by the type of an output: two units in its last place."""

QUERIES = 64
"""Of attention that are checked, at the beginning and at the end: the whole matrix of scores would not fit."""


@dataclass(frozen=True)
class Parity:
    """The worst output's: ``error`` over the reference, largest value over largest, or root of mean squares over the
    same where scores are 8-bit integers. Results that are not finite have an infinite error."""

    error: float
    allowed: float

    @property
    def holds(self) -> bool:
        """False too for an error that is no number."""
        return self.error <= self.allowed

    def require(self, what: str) -> None:
        """Raise ParityError, ``what`` in its message, unless it holds: no times of wrong results."""
        if not self.holds:
            raise ParityError(f"{what} is off by {self.error:.2e} (allowed {self.allowed:.2e}); no times")


def with_numbers(value: Any, seed: int, device: str) -> Any:
    """An argument of a case with random numbers in place of tensors without storage; strides are kept.

    Of a cache all tokens count, and as many zero keys.
    """
    if isinstance(value, Past):
        counts = torch.full((2,), value.key.shape[2], dtype=torch.int32, device=device)
        return Past(with_numbers(value.key, seed + 1, device), with_numbers(value.value, seed + 2, device), counts)
    if isinstance(value, tuple):
        return tuple(with_numbers(each, seed, device) for each in value)
    if isinstance(value, Tensor):
        generator = torch.Generator(device).manual_seed(seed)
        made = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)
        return made.normal_(generator=generator)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {part.name: with_numbers(getattr(value, part.name), seed, device) for part in dataclasses.fields(value)}
        return dataclasses.replace(value, **parts)
    return value


def parity_of(op: str, launch: Launch, arguments: dict[str, Any]) -> Parity:
    """Of a launch that has run, planned from ``arguments``."""
    outputs: list[Parity] = []
    rounded = "query_scale" in launch.tensors
    for found, expected in _PAIRS[op](launch, arguments):
        if rounded:
            outputs.append(Parity(mean_square_error(found, expected), ERROR))
        else:
            outputs.append(Parity(largest_error(found, expected), ALLOWED[found.dtype]))
    return max(outputs, key=lambda parity: parity.error / parity.allowed)


def largest_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest value expected; infinite where that is no number."""
    return _finite((found.float() - expected.float()).abs().max() / expected.float().abs().max())


def mean_square_error(found: Tensor, expected: Tensor) -> float:
    """Root of the mean square difference over that of what is expected; infinite where that is no number."""
    difference, whole = found.float() - expected.float(), expected.float()
    return _finite(difference.square().mean().sqrt() / whole.square().mean().sqrt())


def _finite(error: Tensor) -> float:
    return float(error) if math.isfinite(error) else math.inf


Pairs = list[tuple[Tensor, Tensor]]


def _flow_map_update(launch: Launch, arguments: dict[str, Any]) -> Pairs:
    from anyflow_rt.kernels.flow_map_update.reference import flow_map_update_reference

    expected = flow_map_update_reference(**{name: each for name, each in arguments.items() if name != "cast"})
    return [(launch.tensors[name], expected) for name in ("updated", "updated_cast") if name in launch.tensors]


def _adaptive_norm(launch: Launch, arguments: dict[str, Any]) -> Pairs:
    from anyflow_rt.kernels.adaptive_norm.reference import adaptive_norm_reference

    branch, gate, norm = (arguments.get(name) for name in ("branch", "gate", "norm"))
    expected = adaptive_norm_reference(arguments["residual"], branch, gate, norm, _eps(launch))
    found = [launch.tensors.get(name) for name in ("joined", "normalised")]
    return [(f, e) for f, e in zip(found, expected, strict=True) if f is not None and e is not None]


def _qk_norm_rope(launch: Launch, arguments: dict[str, Any]) -> Pairs:
    from anyflow_rt.kernels.qk_norm_rope.reference import norm_rope_reference

    parts = arguments["packed"].chunk(3 if "key_gain" in arguments else 1, dim=-1)
    rope = (arguments["rope_cos"], arguments["rope_sin"]) if "rope_cos" in arguments else None
    eps, pairs = _eps(launch), arguments.get("pairs", "halves")
    made = dict(launch.tensors)
    if "cache" in arguments:
        keys, start = arguments["cache"]
        made["key"] = keys[:, :, start : start + arguments["packed"].shape[1]]
    return [
        (
            made[name],
            norm_rope_reference(part, arguments[f"{name}_gain"], arguments["heads"], eps, rope, pairs),
        )
        for name, part in zip(("query", "key"), parts, strict=False)
        if name in made
    ]


def _eps(launch: Launch) -> float:
    eps = launch.constants["EPS"]
    assert isinstance(eps, float)
    return eps


def _attention(launch: Launch, arguments: dict[str, Any]) -> Pairs:
    from anyflow_rt.kernels.attention.reference import attention_reference

    if "scales" in launch.tensors:
        return [_rounded(launch, arguments["key"])]
    query, output = arguments["query"], launch.tensors["output"]
    rest = arguments["key"], arguments["value"], arguments.get("key_bias")
    return [
        (output[:, part], attention_reference(query[:, :, part], *rest, past=arguments.get("past")))
        for part in (slice(0, QUERIES), slice(query.shape[2] - QUERIES, None))
    ]


def _rounded(launch: Launch, key: Tensor) -> tuple[Tensor, Tensor]:
    """Keys back from 8 bits. They are off by half a step, 0.4% of the largest: bf16's tolerance holds that."""
    scales = launch.tensors["scales"].repeat_interleave(constants_of(launch)["ROWS"], dim=2)[:, :, : key.shape[2], None]
    back = launch.tensors["values"] * scales + launch.tensors["mean"][:, :, None]
    return back.to(torch.bfloat16), key


_PAIRS = {
    "flow_map_update": _flow_map_update,
    "adaptive_norm": _adaptive_norm,
    "qk_norm_rope": _qk_norm_rope,
    "attention": _attention,
}
