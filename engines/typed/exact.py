"""Products that stay float32 in a bf16 graph. Which they are was measured, see ``docs/gpu.md``.

1. The denoiser's first and last: they meet the state. They are a thousandth of the work, and hold a third of the error
   of a jump. So too those that make tokens of a causal checkpoint's finished chunks.
2. The VAE's first and last: a bf16 near white is half a level off.
3. Transposed convolutions: TensorRT has none in bf16. They are 3% of a decoder's work.

In fp16 none: its errors are an eighth of bf16's, and TensorRT for RTX has no float32 products for sm_75.
"""

from __future__ import annotations

import onnx_ir as ir

from anyflow_rt.engines.typed.precision import PRODUCTS


def exact_products(component: str, graph: ir.Graph, half: str) -> frozenset[ir.Node]:
    """The products of ``component``'s ``graph`` that stay float32 where the others are ``half``."""
    if half != "bf16":
        return frozenset()
    products = [node for node in graph if node.op_type in PRODUCTS and node.op_type != "Attention"]
    exact = {node for node in products if node.op_type == "ConvTranspose"}
    if component in ("denoiser", "full_tokens", "far_tokens") or component.startswith("vae_"):
        exact |= {products[0], products[-1]}
    return frozenset(exact)
