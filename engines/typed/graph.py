"""A component's float32 ONNX file -> the typed one that an engine is built from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from anyflow_rt.engines.kernel_nodes.sets import ATTENTION, NONE
from anyflow_rt.engines.typed.heads import read_heads

COMPUTE_TYPE_PORTS = ("*cache_*", "cross_key", "cross_value")
"""Inputs and outputs that only ever go from one engine to another: they are of the half type."""

PRECISIONS = ("bf16", "fp16", "fp32")

CROSS_KEYS = ("collapsed", "all")
"""How the denoiser sees a prompt's padding: as two keys with biases, or as the identical keys it is, without a bias."""


@dataclass(frozen=True)
class TypedGraph:
    """``path``: the ONNX file. fused, decomposed: attentions that TensorRT makes one kernel, and those taken apart.

    kernels: nodes that are kernels of ours, by kind.
    """

    path: Path
    precision: str
    fused: int
    decomposed: int
    kernels: Mapping[str, int] = field(default_factory=dict)


def write_typed_graph(
    component: str,
    source: Path,
    destination: Path,
    precision: str,
    cross_keys: str = "collapsed",
    kernels: str = NONE,
) -> TypedGraph:
    """Write ``source``, float32, to ``destination`` in ``precision`` (one of ``PRECISIONS``), weights beside it.

    kernels: one of ``kernel_nodes.sets.KERNEL_SETS``; those of the denoiser become nodes of the domain ``anyflow``.

    The time embedder's products are float32 where the others are bf16: it is tiny, and every block reads its answer.
    In fp16 they are fp16, since there are no others for sm_75. Weights are mapped, converted and written one at a time.
    """
    import onnx_ir as ir

    from anyflow_rt.engines.kernel_nodes.rewrite import use_kernels
    from anyflow_rt.engines.typed.attention import AttentionCount, prepare_attention
    from anyflow_rt.engines.typed.cross_keys import attend_to_all_keys
    from anyflow_rt.engines.typed.exact import exact_products
    from anyflow_rt.engines.typed.pixels import cast_pixels_first, cast_pixels_last
    from anyflow_rt.engines.typed.precision import Typing, type_graph
    from anyflow_rt.engines.typed.scaled import scale_feed_forwards
    from anyflow_rt.engines.typed.weights import drop_unused_weights

    model = ir.load(source)
    if cross_keys == "all":
        attend_to_all_keys(component, model)
    cast_pixels_first(model)
    cast_pixels_last(model)
    kept = "fp32" if component == "time_embedder" and precision == "bf16" else precision
    if kept != "fp32":
        exact = exact_products(component, model.graph, kept)
        type_graph(model, Typing(kept, COMPUTE_TYPE_PORTS, exact))
    if component == "text_encoder" and kept == "fp16":
        scale_feed_forwards(model)
    count = prepare_attention(model, read_heads(source))
    made = use_kernels(model, kernels) if component == "denoiser" else {}
    if made and kernels == ATTENTION:
        count = AttentionCount(0, 0)
    drop_unused_weights(model.graph)
    ir.save(model, destination, external_data=f"{destination.name}.data")
    return TypedGraph(destination, kept, count.fused, count.decomposed, made)
