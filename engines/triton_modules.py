"""The denoiser over this package's kernels: the exported module's weights, its arithmetic in fewer passes.

    kernel launches of one jump = 2 + 7 a block
        once:    the first block's norm1, and the flow-map update
        a block: qk_norm_rope, attention to itself, join with gate into norm2, query_norm, attention to the prompt,
                 join into norm3, join with gate into the next block's norm1 (the head's, after the last)

What is left to PyTorch: the patches' and the head's projection, six linear layers a block (fused qkv, out, query,
out, expand, contract), the activation between the last two (a launch of its own: docs/performance.md says what that
costs, and why PyTorch's product with the activation in it is not used), and what goes before the patches: the state
cast to the compute type, and its pixels put in order. The residual is kept in the compute type, everything that is
summed over is float32. ``transformer.Denoiser`` says what is computed, and how weights are laid out. A causal
checkpoint's chunk is the same but for attention to itself, which ``triton_causal`` has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyflow_rt.engines.export import transformer
from anyflow_rt.kernels.attention.implementations import attention_by_name
from anyflow_rt.kernels.checks import ALIGNMENT
from anyflow_rt.kernels.library import OPERATORS
from anyflow_rt.kernels.qk_norm_rope.triton import packed_value

Rope = tuple[Tensor, Tensor]

OwnAttention = Callable[[transformer.SelfAttention, Tensor, Rope], Tensor]
"""(layer, packed projection (B, L, 3 D), cos and sin) -> what tokens attend to among their own kind, (B, L, D)."""

ONCE_LAUNCHES = {"adaptive_norm": 1, "flow_map_update": 1}
BLOCK_LAUNCHES = {"qk_norm_rope": 1, "query_norm": 1, "attention": 2, "join_norm": 3}
"""Operator -> launches, with a norm2; without one the join after self-attention is a ``join``."""


class TritonDenoiser(nn.Module):
    """One jump, as ``transformer.Denoiser``, whose weights it takes over; the matrices' type is the compute type."""

    def __init__(self, denoiser: nn.Module, attention: str = "triton") -> None:
        """``attention``: a name of ``kernels.attention.implementations``; raises what those raise."""
        super().__init__()
        assert isinstance(denoiser, transformer.Denoiser)
        self.dtype = denoiser.head.weight.dtype
        self.patch, self.eps = denoiser.patch, denoiser.eps
        self.patch_weight = nn.Parameter(denoiser.patches.weight.flatten(1).to(self.dtype), requires_grad=False)
        self.patch_bias = nn.Parameter(denoiser.patches.bias.to(self.dtype), requires_grad=False)
        self.scale_shift_table = nn.Parameter(denoiser.scale_shift_table[0], requires_grad=False)
        self.blocks = nn.ModuleList(TritonBlock(block, attention) for block in denoiser.blocks)
        self.head = denoiser.head

    def forward(
        self,
        latents: Tensor,
        modulation: Tensor,
        head_modulation: Tensor,
        interval: Tensor,
        cross_key: Tensor,
        cross_value: Tensor,
        context_bias: Tensor,
        rope_cos: Tensor,
        rope_sin: Tensor,
        own: Sequence[OwnAttention] | None = None,
    ) -> Tensor:
        """Shapes as in the component table of ``docs/architecture.md``, keys and values in the compute type; z_r. own:
        of each block, where a video's tokens attend to more than themselves."""
        x = F.linear(self._patches(latents), self.patch_weight, self.patch_bias)
        tables = [(modulation, block.scale_shift_table) for block in self.blocks]
        norms = [*tables[1:], (head_modulation[:, :, None], self.scale_shift_table)]
        y = OPERATORS["adaptive_norm"](x, *tables[0], 0, 1, eps=self.eps)
        for index, block in enumerate(self.blocks):
            cross = (aligned(cross_key[index]), aligned(cross_value[index]), context_bias)
            attend = None if own is None else own[index]
            x, y = block(x, y, modulation, norms[index], cross, (rope_cos, rope_sin), attend)
        return OPERATORS["flow_map_update"](self.head(y).flatten(1, 2), latents, interval)

    def _patches(self, latents: Tensor) -> Tensor:
        """(B, F, C, h p, w p) -> (B, F, h w, C p p), in the compute type."""
        batch, frames, channels, height, width = latents.shape
        rows, columns = height // self.patch, width // self.patch
        split = latents.to(self.dtype).view(batch, frames, channels, rows, self.patch, columns, self.patch)
        return split.permute(0, 1, 3, 5, 2, 4, 6).reshape(batch, frames, rows * columns, -1)


class TritonBlock(nn.Module):
    """One transformer block between two joins: takes and gives (residual, normalised activations)."""

    def __init__(self, block: nn.Module, attention: str) -> None:
        super().__init__()
        assert isinstance(block, transformer.Block)
        self.eps = block.eps
        self.scale_shift_table = nn.Parameter(block.scale_shift_table[0], requires_grad=False)
        self.own, self.cross = block.self_attention, block.cross_attention
        self.affine = (block.norm_gain, block.norm_bias) if block.cross_norm else None
        self.expand, self.contract = block.expand, block.contract
        self.attend = attention_by_name(attention)

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        modulation: Tensor,
        next_norm: tuple[Tensor, Tensor],
        cross: tuple[Tensor, Tensor, Tensor],
        rope: Rope,
        own: OwnAttention | None = None,
    ) -> tuple[Tensor, Tensor]:
        """x, y (B, F, N, D); modulation (B, F, 6, D); next_norm: modulation and table of the norm that comes after;
        cross: key, value, bias; rope: cos, sin; own: attention to the video's tokens, where not to these alone."""
        gate = (modulation, self.scale_shift_table)
        packed = self.own.qkv(y.flatten(1, 2))
        branch = self.own.out((own or self._attend_own)(self.own, packed, rope)).view_as(x)
        if self.affine is None:
            x = y = OPERATORS["join"](x, branch, *gate, 2)
        else:
            gain, bias = self.affine
            x, y = OPERATORS["join_norm"](x, branch, *gate, 2, gain=gain, bias=bias, eps=self.eps)
        branch = self._cross_attention(y.flatten(1, 2), *cross).view_as(x)
        x, y = OPERATORS["join_norm"](x, branch, None, None, 0, *gate, 3, 4, eps=self.eps)
        branch = self.contract(F.gelu(self.expand(y), approximate="tanh"))
        return OPERATORS["join_norm"](x, branch, *gate, 5, *next_norm, 0, 1, eps=self.eps)

    def _attend_own(self, layer: transformer.SelfAttention, packed: Tensor, rope: Rope) -> Tensor:
        return self.attend(*queries_keys_values(layer, packed, rope), None)

    def _cross_attention(self, y: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        layer = self.cross
        query = OPERATORS["query_norm"](layer.query(y), layer.query_gain, layer.heads, layer.eps)
        return layer.out(self.attend(query, key, value, bias))


def queries_keys_values(layer: transformer.SelfAttention, packed: Tensor, rope: Rope) -> tuple[Tensor, Tensor, Tensor]:
    """Of a packed projection (B, L, 3 D), each (B, heads, L, d); the value stays where it is."""
    query, key = OPERATORS["qk_norm_rope"](
        packed, layer.query_gain, layer.key_gain, *rope, layer.heads, "halves", layer.eps
    )
    return query, key, aligned(packed_value(packed, layer.heads))


def aligned(part: Tensor) -> Tensor:
    """``part`` as kernels want it: copied where it begins at an odd place, as it may where widths are odd."""
    return part.clone() if part.storage_offset() * part.element_size() % ALIGNMENT else part


def expected_copies(dtype: torch.dtype) -> dict[str, int]:
    """PyTorch's operators that only move data -> how many of one jump: the plan's "once", where no width is odd."""
    return {"clone": 1} | ({} if dtype == torch.float32 else {"_to_copy": 1})


def expected_launches(layers: int, cross_attn_norm: bool) -> dict[str, int]:
    """Operator -> launches of one jump, with the kernels of this package throughout: the plan above."""
    block = dict(BLOCK_LAUNCHES)
    if not cross_attn_norm:
        block |= {"join_norm": 2, "join": 1}
    return {name: layers * count for name, count in block.items()} | ONCE_LAUNCHES
