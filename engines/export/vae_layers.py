"""Building blocks of the streamed VAE, shared by its decoder and its encoder.

Each block exists in two forms. The *first* form runs the single first latent frame: behind it there are only zeros,
so a causal 3x3x3 convolution is the 2-D convolution with its last temporal tap (a third of the arithmetic), and
tensors are (B, c, h, w). The *next* form runs the following frames against caches: tensors are (B, c, t, h, w).
Both forms take the weights of diffusers' ``AutoencoderKLWan`` by their names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Weights = Mapping[str, Tensor]


class FrameCaches:
    """The caches of one call: those given are consumed in order, the new ones collected in ``kept``."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        self._given = iter(given)
        self.kept: list[Tensor] = []

    def start(self, frame: Tensor, frames: int = 2) -> None:
        """First form: keep ``frames`` frames, zeros and then ``frame`` (B, c, h, w)."""
        frame = frame.unsqueeze(2)
        self.kept.append(torch.cat([torch.zeros_like(frame)] * (frames - 1) + [frame], dim=2))

    def start_empty(self, frame: Tensor) -> None:
        """First form: keep two frames of zeros, for a layer the first latent frame skips."""
        empty = torch.zeros_like(frame).unsqueeze(2)
        self.kept.append(torch.cat([empty, empty], dim=2))

    def extend(self, x: Tensor, frames: int = 2) -> Tensor:
        """Next form: ``[cache, x]`` along time; its last ``frames`` frames are kept."""
        joined = torch.cat([next(self._given), x], dim=2)
        self.kept.append(joined[:, :, -frames:])
        return joined


class ChannelNorm(nn.Module):
    """x / max(||x||, 1e-12) * sqrt(c) * gamma over the channels (axis 1), then SiLU where ``activate``."""

    def __init__(self, weights: Weights, name: str, first: bool, activate: bool = True) -> None:
        super().__init__()
        gamma = weights[f"{name}.gamma"].float().flatten()
        shape = (1, -1, 1, 1) if first else (1, -1, 1, 1, 1)
        self.gain = nn.Parameter((gamma * math.sqrt(gamma.numel())).reshape(shape), requires_grad=False)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        # 1e-24 is the square of the reference's bound on the norm.
        scale = torch.rsqrt((x * x).sum(dim=1, keepdim=True).clamp_min(1e-24))
        y = x * scale * self.gain
        return F.silu(y) if self.activate else y


class CausalConvolution(nn.Module):
    """A 3x3x3 convolution, padded by one in space and by the two cached frames in time."""

    def __init__(self, weights: Weights, name: str, first: bool) -> None:
        super().__init__()
        weight = weights[f"{name}.weight"].float()
        self.first = first
        self.weight = nn.Parameter(weight[:, :, -1].contiguous() if first else weight, requires_grad=False)
        self.bias = nn.Parameter(weights[f"{name}.bias"].float(), requires_grad=False)

    def forward(self, x: Tensor, caches: FrameCaches) -> Tensor:
        if self.first:
            caches.start(x)
            return F.conv2d(x, self.weight, self.bias, padding=1)
        return F.conv3d(caches.extend(x), self.weight, self.bias, padding=(0, 1, 1))


class Pointwise(nn.Module):
    """A 1x1(x1) convolution. ``weight`` (o, i) and ``bias`` (o,) are given, so that callers can fold into them."""

    def __init__(self, weight: Tensor, bias: Tensor, first: bool) -> None:
        super().__init__()
        self.first = first
        self.weight = nn.Parameter(weight.float().reshape(*weight.shape, *((1, 1) if first else (1, 1, 1))), False)
        self.bias = nn.Parameter(bias.float(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias) if self.first else F.conv3d(x, self.weight, self.bias)


class ResidualBlock(nn.Module):
    """norm, SiLU, convolution, twice, plus the input (through a 1x1 convolution where the widths differ)."""

    def __init__(self, weights: Weights, name: str, first: bool) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(weights, f"{name}.norm1", first)
        self.conv1 = CausalConvolution(weights, f"{name}.conv1", first)
        self.norm2 = ChannelNorm(weights, f"{name}.norm2", first)
        self.conv2 = CausalConvolution(weights, f"{name}.conv2", first)
        self.shortcut: nn.Module = nn.Identity()
        if f"{name}.conv_shortcut.weight" in weights:
            weight = weights[f"{name}.conv_shortcut.weight"].flatten(1)
            self.shortcut = Pointwise(weight, weights[f"{name}.conv_shortcut.bias"], first)

    def forward(self, x: Tensor, caches: FrameCaches) -> Tensor:
        y = self.conv1(self.norm1(x), caches)
        return self.conv2(self.norm2(y), caches) + self.shortcut(x)


class FrameAttention(nn.Module):
    """Single-head self-attention among the positions of each frame, plus the input. Keeps no cache."""

    def __init__(self, weights: Weights, name: str, first: bool) -> None:
        super().__init__()
        self.first = first
        self.norm = ChannelNorm(weights, f"{name}.norm", first, activate=False)
        self.qkv = _linear(weights, f"{name}.to_qkv")
        self.project = _linear(weights, f"{name}.proj")

    def forward(self, x: Tensor, caches: FrameCaches) -> Tensor:
        normed = self.norm(x)
        # Channels last, positions in one axis: (B, [t,] h, w, c) -> (B t, 1, h w, c).
        tokens = normed.movedim(1, -1)
        query, key, value = self.qkv(
            tokens.flatten(-3, -2).reshape(-1, 1, x.shape[-2] * x.shape[-1], x.shape[1])
        ).chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(query, key, value)
        return x + self.project(attended).reshape(tokens.shape).movedim(-1, 1)


class MidBlock(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, weights: Weights, name: str, first: bool) -> None:
        super().__init__()
        self.before = ResidualBlock(weights, f"{name}.resnets.0", first)
        self.attention = FrameAttention(weights, f"{name}.attentions.0", first)
        self.after = ResidualBlock(weights, f"{name}.resnets.1", first)

    def forward(self, x: Tensor, caches: FrameCaches) -> Tensor:
        return self.after(self.attention(self.before(x, caches), caches), caches)


class Upsample(nn.Module):
    """Twice the frames where the checkpoint has a ``time_conv`` (not for the first frame), twice height and width.

    ``time_conv`` gives 2c channels: those of the earlier and of the later of two frames. Space: nearest, then a 3x3
    convolution in each frame.
    """

    def __init__(self, weights: Weights, name: str, first: bool) -> None:
        super().__init__()
        self.first = first
        self.temporal = f"{name}.time_conv.weight" in weights
        weight = weights[f"{name}.resample.1.weight"].float()
        self.weight = nn.Parameter(weight if first else weight.unsqueeze(2), requires_grad=False)
        self.bias = nn.Parameter(weights[f"{name}.resample.1.bias"].float(), requires_grad=False)
        if self.temporal and not first:
            self.time_weight = nn.Parameter(weights[f"{name}.time_conv.weight"].float(), requires_grad=False)
            self.time_bias = nn.Parameter(weights[f"{name}.time_conv.bias"].float(), requires_grad=False)

    def forward(self, x: Tensor, caches: FrameCaches) -> Tensor:
        if self.first:
            if self.temporal:
                caches.start_empty(x)
            return F.conv2d(F.interpolate(x, scale_factor=(2.0, 2.0)), self.weight, self.bias, padding=1)
        if self.temporal:
            pairs = F.conv3d(caches.extend(x), self.time_weight, self.time_bias)
            batch, _, frames, height, width = pairs.shape
            pairs = pairs.reshape(batch, 2, -1, frames, height, width).permute(0, 2, 3, 1, 4, 5)
            x = pairs.reshape(batch, -1, 2 * frames, height, width)
        return F.conv3d(F.interpolate(x, scale_factor=(1.0, 2.0, 2.0)), self.weight, self.bias, padding=(0, 1, 1))


class Downsample(nn.Module):
    """Half height and width; half the frames where the checkpoint has a ``time_conv`` (not for the first frame)."""

    def __init__(self, weights: Weights, name: str, first: bool) -> None:
        super().__init__()
        self.first = first
        self.temporal = f"{name}.time_conv.weight" in weights
        weight = weights[f"{name}.resample.1.weight"].float()
        self.weight = nn.Parameter(weight if first else weight.unsqueeze(2), requires_grad=False)
        self.bias = nn.Parameter(weights[f"{name}.resample.1.bias"].float(), requires_grad=False)
        if self.temporal and not first:
            self.time_weight = nn.Parameter(weights[f"{name}.time_conv.weight"].float(), requires_grad=False)
            self.time_bias = nn.Parameter(weights[f"{name}.time_conv.bias"].float(), requires_grad=False)

    def forward(self, x: Tensor, caches: FrameCaches) -> Tensor:
        x = F.pad(x, (0, 1, 0, 1))
        if self.first:
            x = F.conv2d(x, self.weight, self.bias, stride=2)
            if self.temporal:
                caches.start(x, frames=1)
            return x
        x = F.conv3d(x, self.weight, self.bias, stride=(1, 2, 2))
        if self.temporal:
            x = F.conv3d(caches.extend(x, frames=1), self.time_weight, self.time_bias, stride=(2, 1, 1))
        return x


def spread_channels(x: Tensor, channels: int, time: int, first: bool) -> Tensor:
    """The residual decoder's shortcut: each group of channels becomes a (time, 2, 2) block of positions.

    ``x`` is (B, c, [t,] h, w); the value is (B, channels, [time t,] 2h, 2w). Of the first frame's block only the last
    frame remains.
    """
    if first:
        x = x.unsqueeze(2)
    batch, width, frames, height, breadth = x.shape
    x = x.repeat_interleave(channels * time * 4 // width, dim=1)
    x = x.reshape(batch, channels, time, 2, 2, frames, height, breadth).permute(0, 1, 5, 2, 6, 3, 7, 4)
    x = x.reshape(batch, channels, time * frames, 2 * height, 2 * breadth)
    return x[:, :, -1] if first else x


def pool_channels(x: Tensor, channels: int, time: int, space: int, first: bool) -> Tensor:
    """The residual encoder's shortcut: (time, space, space) blocks become channels, averaged down to ``channels``.

    ``x`` is (B, c, [t,] h, w); the value is (B, channels, [t / time,] h / space, w / space). The first frame's block is
    completed with zeros in front.
    """
    if first:
        x = x.unsqueeze(2)
        x = torch.cat([torch.zeros_like(x)] * (time - 1) + [x], dim=2)
    batch, width, frames, height, breadth = x.shape
    x = x.reshape(batch, width, frames // time, time, height // space, space, breadth // space, space)
    x = x.permute(0, 1, 3, 5, 7, 2, 4, 6)
    x = x.reshape(batch, channels, -1, frames // time, height // space, breadth // space).mean(dim=2)
    return x[:, :, 0] if first else x


def _linear(weights: Weights, name: str) -> nn.Linear:
    """A 1x1 convolution of the checkpoint as a linear layer over the last axis."""
    weight, bias = weights[f"{name}.weight"].float().flatten(1), weights[f"{name}.bias"].float()
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer
