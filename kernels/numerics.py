"""Rounding and products that the interpreter does as a GPU does them.

Triton's interpreter cuts float32 off where bfloat16 ends instead of rounding to nearest even, and multiplies the bit
patterns of bfloat16 matrices. Compiled kernels take the plain path: the branches are decided at compile time.
"""

from __future__ import annotations

from anyflow_rt.kernels.package import INTERPRETED, tl, triton

BY_HAND = tl.constexpr(INTERPRETED)


@triton.jit
def round_to(x, dtype: tl.constexpr):
    """float32 ``x`` in ``dtype``, to nearest even."""
    if BY_HAND and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        bits = tl.where(x != x, 0x7FC0, bits)
        return bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return x.to(dtype)


@triton.jit
def dot(a, b, accumulator):
    """accumulator + a b, float32, or int32 of int8; products of float32 are not shortened to tf32."""
    if a.dtype == tl.int8:
        return tl.dot(a, b, accumulator, out_dtype=tl.int32)
    if BY_HAND:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), accumulator, input_precision="ieee")
    return tl.dot(a, b, accumulator, input_precision="ieee")
