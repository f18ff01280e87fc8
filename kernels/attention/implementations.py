"""Attention by name: this package's kernels, PyTorch's, or the flash-attn package's where it is installed."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from anyflow_rt.errors import EngineError, MissingPackageError, UsageError

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(query (B, heads, Lq, d), key, value (B, heads, Lk, d), bias per key (B, Lk) float32 or None) -> (B, Lq, heads * d),
in the query's type."""


def _triton() -> Attend:
    from anyflow_rt.kernels.library import OPERATORS

    operator = OPERATORS["attention"]
    return lambda query, key, value, key_bias: operator(query, key, value, key_bias)


def _triton_int8() -> Attend:
    from anyflow_rt.kernels.attention.int8 import attention_int8

    exact = _triton()

    def attend(query: Tensor, key: Tensor, value: Tensor, key_bias: Tensor | None) -> Tensor:
        if key_bias is not None:
            return exact(query, key, value, key_bias)
        return attention_int8(query, key, value)

    return attend


def _sdpa() -> Attend:
    def attend(query: Tensor, key: Tensor, value: Tensor, key_bias: Tensor | None) -> Tensor:
        # It wants the bias in the query's type: the padding's two keys are made to lose nothing by that.
        mask = None if key_bias is None else key_bias[:, None, None, :].to(query.dtype)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)

    return attend


def _flash() -> Attend:
    try:
        from flash_attn import flash_attn_func
    except ImportError as error:
        raise MissingPackageError("flash-attn", None, "the attention implementation 'flash-attn'") from error
    biased = _triton()

    def attend(query: Tensor, key: Tensor, value: Tensor, key_bias: Tensor | None) -> Tensor:
        if key_bias is not None:
            return biased(query, key, value, key_bias)
        if query.device.type != "cuda" or query.dtype == torch.float32:
            raise EngineError(
                f"query is {query.dtype} on {query.device}; flash-attn takes bfloat16 and float16 on cuda: "
                "use another attention implementation"
            )
        output: Tensor = flash_attn_func(*(x.transpose(1, 2) for x in (query, key, value)))
        return output.flatten(2)

    return attend


IMPLEMENTATIONS: dict[str, Callable[[], Attend]] = {
    "triton": _triton,
    "triton-int8": _triton_int8,
    "sdpa": _sdpa,
    "flash-attn": _flash,
}
"""Attention with a bias per key, to a prompt, stays with ``triton`` for two of them: flash-attn has no such bias; and a
prompt has so few keys that memory is the limit, where rounding every query to 8 bits would cost more than it saves."""


def attention_by_name(name: str) -> Attend:
    """The implementation called ``name``.

    Raises UsageError for a name that is none, MissingPackageError where its package is not installed.
    """
    if name not in IMPLEMENTATIONS:
        raise UsageError(f"unknown attention implementation {name!r}; there are {', '.join(IMPLEMENTATIONS)}")
    return IMPLEMENTATIONS[name]()
