"""Cross-attention to every prompt position, as the reference does it, in place of padding collapsed into two keys.

A fused kernel may be quicker without a bias. The price is 512 keys for every prompt.

1. The conditioner makes no keys for the collapsed padding: prompts come padded with zero rows to their full length.
2. The attentions of denoiser and cache writer take no bias. Inputs and outputs that nothing reads any more are gone.
"""

from __future__ import annotations

import onnx_ir as ir

from anyflow_rt.engines.geometry import PAD_KEYS
from anyflow_rt.engines.typed.weights import drop_unused_weights


def attend_to_all_keys(component: str, model: ir.Model) -> bool:
    """Change ``model`` in place; whether there was anything to change."""
    if component == "conditioner":
        _drop_pad_keys(model.graph)
    elif component in ("denoiser", "cache_writer"):
        _drop_bias(model.graph)
    else:
        return False
    _remove_unused(model.graph)
    return True


def _drop_pad_keys(graph: ir.Graph) -> None:
    embeds = next(value for value in graph.inputs if value.name == "prompt_embeds")
    (pad,) = (node for node in graph if node.op_type == "Pad" and node.inputs[0] is embeds)
    pad.outputs[0].replace_all_uses_with(embeds)
    keys = next(value for value in graph.outputs if value.name == "context_bias")
    graph.outputs.remove(keys)
    # The sizes of what follows were made by adding the padding's keys to the prompt's: add none.
    for node in list(graph):
        given = [value for value in node.inputs if value is not None]
        if node.op_type == "Add" and (lengths := [value for value in given if not _is_pad_count(value)]) != given:
            node.outputs[0].replace_all_uses_with(lengths[0])


def _is_pad_count(value: ir.Value) -> bool:
    number = value.const_value
    if number is None or number.dtype != ir.DataType.INT64 or number.size != 1:
        return False
    return int(number.numpy()) == PAD_KEYS


def _drop_bias(graph: ir.Graph) -> None:
    for node in graph:
        if node.op_type == "Attention" and len(node.inputs) > 3:
            node.resize_inputs(3)


def _remove_unused(graph: ir.Graph) -> None:
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
    for value in [value for value in graph.inputs if not value.uses()]:
        graph.inputs.remove(value)
    drop_unused_weights(graph)
