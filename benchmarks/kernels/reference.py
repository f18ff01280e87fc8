"""The same jump as diffusers does it: its own modules, run on tensors without storage, every operation noted.

An operation that is no view is a launch; its bytes are its inputs and outputs once. PyTorch's attention counts as one
fused launch, as it is on a GPU. What torch.compile would fuse is not considered: this is the pipeline as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from anyflow_rt.benchmarks.kernels.steps import Step
from anyflow_rt.benchmarks.optional import optional_module
from anyflow_rt.kernels.video_shapes import VideoShape

PROMPT_POSITIONS = 512
"""The pipeline's ``max_sequence_length``: it attends to the padding as well."""

MATRIX = ("addmm", "convolution")
NO_LAUNCH = ("empty", "empty_like", "new_empty", "empty_strided", "detach", "_unsafe_view", "lift_fresh")


def reference_block(shape: VideoShape) -> list[Step]:
    """One block of diffusers' AnyFlow transformer in bf16; norms and table in float32, as ``from_pretrained`` does it.

    Raises MissingPackageError without diffusers.
    """
    with torch.device("meta"), torch.no_grad():
        block = _source().AnyFlowTransformerBlock(shape.width, shape.ffn, shape.heads, cross_attn_norm=True)
        block.to(torch.bfloat16)
        block.norm2.float()
        block.scale_shift_table.data = block.scale_shift_table.data.float()
        tokens = torch.empty(1, shape.length, shape.width, dtype=torch.bfloat16)
        text = torch.empty(1, PROMPT_POSITIONS, shape.width, dtype=torch.bfloat16)
        modulation = torch.empty(1, shape.length, 6, shape.width, dtype=torch.bfloat16)
        angles = torch.empty(1, 1, shape.length, shape.head_dim // 2, dtype=torch.complex128)
        with noted() as steps:
            block(tokens, text, modulation, {"query": angles, "key": angles}, None)
    return steps


def reference_surroundings(shape: VideoShape, text_width: int = 4096) -> list[Step]:
    """What a call of the transformer does beside its blocks: patches, embeddings expanded to every token, head."""
    with torch.device("meta"), torch.no_grad():
        model = _source().AnyFlowTransformer3DModel(
            num_attention_heads=shape.heads,
            attention_head_dim=shape.head_dim,
            in_channels=shape.channels,
            out_channels=shape.channels,
            text_dim=text_width,
            ffn_dim=shape.ffn,
            num_layers=0,
        )
        torch.nn.Module.to(model, torch.bfloat16)  # the model's own warns of what is set right below
        model.scale_shift_table.data = model.scale_shift_table.data.float()
        latents = torch.empty(shape.state, dtype=torch.bfloat16)
        text = torch.empty(1, PROMPT_POSITIONS, text_width, dtype=torch.bfloat16)
        time = torch.empty(1, shape.frames)
        model(latents, time, time, text)  # builds the table of angles, which is kept
        with noted() as steps:
            model(latents, time, time, text)
    return steps


def reference_jump(shape: VideoShape) -> list[Step]:
    """A whole call of the transformer. The scheduler's step, a few launches on the small state, is left out."""
    blocks = [replace(step, count=shape.layers) for step in reference_block(shape)]
    return [*reference_surroundings(shape), *blocks]


@contextmanager
def noted() -> Iterator[list[Step]]:
    """Every operation of the block that a GPU would launch, in order."""
    steps: list[Step] = []
    with _Attention(steps), _Operations(steps):
        yield steps


class _Operations(TorchDispatchMode):
    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.steps = steps

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function._schema.name.removeprefix("aten::")
        if not function.is_view and name not in NO_LAUNCH:
            tensors = [each for each in tree_leaves((args, kwargs, result)) if isinstance(each, Tensor)]
            matrix = name in MATRIX
            inner = args[1].numel() // args[1].shape[0] if name in ("addmm", "convolution") else 0
            if name == "addmm":
                operations = 2 * args[1].numel() * args[2].shape[1]
            else:
                operations = 2 * result.numel() * inner if matrix else 0
            self.steps.append(Step(name, "matmul" if matrix else "elementwise", _bytes(tensors), operations))
        return result


class _Attention(TorchFunctionMode):
    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.steps = steps

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not F.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        given = {**dict(zip(("query", "key", "value"), args, strict=False)), **(kwargs or {})}
        query, key, value = given["query"], given["key"], given["value"]
        operations = 4 * query.numel() * key.shape[-2]
        self.steps.append(Step("attention", "attention", _bytes([query, key, value, query]), operations))
        return query.new_empty(query.shape)


def _bytes(tensors: list[Tensor]) -> int:
    """Each element once, however often it is repeated by a stride of 0."""
    total = 0
    for tensor in tensors:
        sizes = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
        total += math.prod(sizes) * tensor.element_size()
    return total


def _source() -> Any:
    return optional_module("diffusers.models.transformers.transformer_anyflow", "the reference's ledger")
