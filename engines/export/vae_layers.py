"""Building blocks of the streamed VAE, shared by its decoder and its encoder.

Each block exists in two forms. The *first* form runs the single first latent frame: behind it there are only zeros,
so a causal 3x3x3 convolution is the 2-D convolution with its last temporal tap (a third of the arithmetic), and
tensors are (B, h, w, c). The *next* form runs the following frames against caches: tensors are (B, t, h, w, c).
Both forms take the weights of diffusers' ``AutoencoderKLWan`` by their names.

Channels come last everywhere but inside a convolution: the norm is then over the last axis (one RMSNormalization),
1x1 convolutions and attention are matrix products, a cache is a contiguous piece, and the transposes around a
convolution describe the layout that fast convolutions use anyway.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyflow_rt.engines.export.shape_free import Size, reshape, reshape_by
from anyflow_rt.engines.weights import Weights

# The reference bounds the norm below by 1e-12. This is far below the mean square of any activation that matters, and
# gives 0 for a position whose channels are all 0, as the reference does.
_EPS = 1e-16


class FrameCaches:
    """The caches of one call: those given are consumed in order, the new ones collected in ``kept``."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        self._given = iter(given)
        self.kept: list[Tensor] = []

    def start(self, frame: Tensor, frames: int = 2) -> None:
        """First form: keep ``frames`` frames, zeros and then ``frame`` (B, h, w, c)."""
        self.kept.append(_frames_before(frame.unsqueeze(1), frames - 1))

    def start_empty(self, frame: Tensor) -> None:
        """First form: keep two frames of zeros, for a layer the first latent frame skips."""
        self.kept.append(_frames_before(frame.unsqueeze(1), 2)[:, :2])

    def extend(self, x: Tensor, frames: int = 2) -> Tensor:
        """Next form: ``[cache, x]`` along time; its last ``frames`` frames are kept."""
        joined = torch.cat([next(self._given), x], dim=1)
        self.kept.append(joined[:, -frames:])
        return joined


class Convolution(nn.Module):
    """A convolution in space (first form, 2-D) or in time and space (next form, 3-D), on channels-last tensors.

    ``weight`` is (o, i, kt, kh, kw); the first form keeps its last temporal tap. ``padding`` is in space only.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, first: bool, stride: tuple[int, int] = (1, 1), pad: int = 0
    ) -> None:
        super().__init__()
        self.first = first
        self.weight = nn.Parameter((weight[:, :, -1].contiguous() if first else weight).float(), requires_grad=False)
        self.bias = nn.Parameter(bias.float(), requires_grad=False)
        time, space = stride
        self.stride = (space, space) if first else (time, space, space)
        self.padding = (pad, pad) if first else (0, pad, pad)

    def forward(self, x: Tensor) -> Tensor:
        """(B, [t,] h, w, i) -> (B, [t',] h', w', o)."""
        if self.first:
            y = F.conv2d(x.permute(0, 3, 1, 2), self.weight, self.bias, self.stride, self.padding)
            return y.permute(0, 2, 3, 1)
        y = F.conv3d(x.permute(0, 4, 1, 2, 3), self.weight, self.bias, self.stride, self.padding)
        return y.permute(0, 2, 3, 4, 1)


class CausalConvolution(nn.Module):
    """A 3x3x3 convolution, padded by one in space and by the two cached frames in time."""

    def __init__(self, weights: Weights, name: str, first: bool) -> None:
        super().__init__()
        self.convolution = Convolution(weights[f"{name}.weight"], weights[f"{name}.bias"], first, pad=1)

    def forward(self, x: Tensor, caches: FrameCaches) -> Tensor:
        if self.convolution.first:
            caches.start(x)
            return self.convolution(x)
        return self.convolution(caches.extend(x))


class ChannelNorm(nn.Module):
    """x / ||x|| * sqrt(c) * gamma over the channels: an RMS norm. Then SiLU where ``activate``."""

    def __init__(self, weights: Weights, name: str, activate: bool = True) -> None:
        super().__init__()
        self.gamma = nn.Parameter(weights[f"{name}.gamma"].float().flatten(), requires_grad=False)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        y = F.rms_norm(x, self.gamma.shape, self.gamma, _EPS)
        if not self.activate:
            return y
        # Width and channels as one axis: SIMD loops over a short channel axis would end in slow remainders.
        outer = [0] * (x.dim() - 2)
        return reshape(F.silu(reshape(y, [*outer, -1])), [*outer, -1, x.shape[-1]])


class Pointwise(nn.Module):
    """A 1x1(x1) convolution. ``weight`` (o, i[, 1, 1, 1]) and ``bias`` (o,) are given: callers fold into them."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.float().flatten(1), requires_grad=False)
        self.bias = nn.Parameter(bias.float(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class ResidualBlock(nn.Module):
    """norm, SiLU, convolution, twice, plus the input (through a 1x1 convolution where the widths differ)."""

    def __init__(self, weights: Weights, name: str, first: bool) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(weights, f"{name}.norm1")
        self.conv1 = CausalConvolution(weights, f"{name}.conv1", first)
        self.norm2 = ChannelNorm(weights, f"{name}.norm2")
        self.conv2 = CausalConvolution(weights, f"{name}.conv2", first)
        self.shortcut: nn.Module = nn.Identity()
        if f"{name}.conv_shortcut.weight" in weights:
            self.shortcut = Pointwise(weights[f"{name}.conv_shortcut.weight"], weights[f"{name}.conv_shortcut.bias"])

    def forward(self, x: Tensor, caches: FrameCaches) -> Tensor:
        y = self.conv1(self.norm1(x), caches)
        return self.conv2(self.norm2(y), caches) + self.shortcut(x)


class FrameAttention(nn.Module):
    """Single-head self-attention among the positions of each frame, plus the input. Keeps no cache."""

    def __init__(self, weights: Weights, name: str) -> None:
        super().__init__()
        self.norm = ChannelNorm(weights, f"{name}.norm", activate=False)
        self.qkv = Pointwise(weights[f"{name}.to_qkv.weight"], weights[f"{name}.to_qkv.bias"])
        self.project = Pointwise(weights[f"{name}.proj.weight"], weights[f"{name}.proj.bias"])

    def forward(self, x: Tensor, caches: FrameCaches) -> Tensor:
        # Frames take the place of heads: (B, t, h w, c).
        tokens = reshape(self.norm(x), [0, 1 if x.dim() == 4 else 0, -1, x.shape[-1]])
        query, key, value = self.qkv(tokens).chunk(3, dim=-1)
        attended = self.project(F.scaled_dot_product_attention(query, key, value))
        return x + reshape_by(attended, x, [*map(Size, range(x.dim() - 1)), x.shape[-1]])


class MidBlock(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, weights: Weights, name: str, first: bool) -> None:
        super().__init__()
        self.before = ResidualBlock(weights, f"{name}.resnets.0", first)
        self.attention = FrameAttention(weights, f"{name}.attentions.0")
        self.after = ResidualBlock(weights, f"{name}.resnets.1", first)

    def forward(self, x: Tensor, caches: FrameCaches) -> Tensor:
        return self.after(self.attention(self.before(x, caches), caches), caches)


class Upsample(nn.Module):
    """Twice the frames where the checkpoint has a ``time_conv`` (not for the first frame), twice height and width.

    ``time_conv`` gives 2c channels: those of the earlier and of the later of two frames. In space the reference repeats
    every position twice along both axes and convolves 3x3. That is one transposed convolution of stride 2 whose 4x4
    kernel sums the taps that meet the same position: 4 products an output instead of 9.
    """

    def __init__(self, weights: Weights, name: str, first: bool) -> None:
        super().__init__()
        self.first = first
        self.temporal = f"{name}.time_conv.weight" in weights
        kernel = _repeat_then_convolve(weights[f"{name}.resample.1.weight"])
        self.weight = nn.Parameter(kernel if first else kernel.unsqueeze(2), requires_grad=False)
        self.bias = nn.Parameter(weights[f"{name}.resample.1.bias"].float(), requires_grad=False)
        if self.temporal and not first:
            self.time = Convolution(weights[f"{name}.time_conv.weight"], weights[f"{name}.time_conv.bias"], first)

    def forward(self, x: Tensor, caches: FrameCaches) -> Tensor:
        if self.first:
            if self.temporal:
                caches.start_empty(x)
            y = F.conv_transpose2d(x.permute(0, 3, 1, 2), self.weight, self.bias, stride=2, padding=1)
            return y.permute(0, 2, 3, 1)
        if self.temporal:
            channels = x.shape[-1]
            pairs = reshape(self.time(caches.extend(x)), [0, 0, 0, 0, 2, channels]).permute(0, 1, 4, 2, 3, 5)
            x = reshape_by(pairs, x, [Size(0), Size(1, times=2), Size(2), Size(3), channels])
        stride, padding = (1, 2, 2), (0, 1, 1)
        y = F.conv_transpose3d(x.permute(0, 4, 1, 2, 3), self.weight, self.bias, stride, padding)
        return y.permute(0, 2, 3, 4, 1)


class Downsample(nn.Module):
    """Half height and width; half the frames where the checkpoint has a ``time_conv`` (not for the first frame)."""

    def __init__(self, weights: Weights, name: str, first: bool) -> None:
        super().__init__()
        self.first = first
        self.temporal = f"{name}.time_conv.weight" in weights
        self.space = Convolution(
            weights[f"{name}.resample.1.weight"].unsqueeze(2), weights[f"{name}.resample.1.bias"], first, stride=(1, 2)
        )
        if self.temporal and not first:
            self.time = Convolution(
                weights[f"{name}.time_conv.weight"], weights[f"{name}.time_conv.bias"], first, stride=(2, 1)
            )

    def forward(self, x: Tensor, caches: FrameCaches) -> Tensor:
        # One row below and one column to the right; channels, the last axis, stay.
        x = self.space(F.pad(x, (0, 0, 0, 1, 0, 1)))
        if self.temporal and self.first:
            caches.start(x, frames=1)
        elif self.temporal:
            x = self.time(caches.extend(x, frames=1))
        return x


def spread_channels(x: Tensor, channels: int, time: int, first: bool) -> Tensor:
    """The residual decoder's shortcut: each group of channels becomes a (time, 2, 2) block of positions.

    ``x`` is (B, [t,] h, w, c); the value is (B, [time t,] 2h, 2w, channels). Of the first frame's block only the last
    frame remains.
    """
    if first:
        x = x.unsqueeze(1)
    wanted = channels * time * 4
    # Every channel, repeated as often as fills the blocks.
    spread = x.index_select(-1, torch.arange(wanted) // (wanted // x.shape[-1]))
    spread = reshape(spread, [0, 0, 0, 0, channels, time, 2, 2]).permute(0, 1, 5, 2, 6, 3, 7, 4)
    y = reshape_by(spread, x, [Size(0), Size(1, times=time), Size(2, times=2), Size(3, times=2), channels])
    return y[:, -1] if first else y


def pool_channels(x: Tensor, channels: int, time: int, space: int, first: bool) -> Tensor:
    """The residual encoder's shortcut: (time, space, space) blocks become channels, averaged down to ``channels``.

    ``x`` is (B, [t,] h, w, c); the value is (B, [t / time,] h / space, w / space, channels). The first frame's block
    is completed with zeros in front.
    """
    if first:
        x = _frames_before(x.unsqueeze(1), time - 1)
    outer = [Size(0), Size(1, over=time), Size(2, over=space), Size(3, over=space)]
    blocks = reshape_by(x, x, [outer[0], outer[1], time, outer[2], space, outer[3], space, x.shape[-1]])
    averaged = x.shape[-1] * time * space**2 // channels
    y = reshape_by(blocks.permute(0, 1, 3, 5, 7, 2, 4, 6), x, [*outer, channels, averaged]).mean(dim=-1)
    return y[:, 0] if first else y


def _frames_before(x: Tensor, frames: int) -> Tensor:
    """``x`` (B, t, h, w, c) behind ``frames`` frames of zeros."""
    return F.pad(x, (0, 0, 0, 0, 0, 0, frames, 0)) if frames else x


def _repeat_then_convolve(weight: Tensor) -> Tensor:
    """The (i, o, 4, 4) kernel of the transposed convolution that equals repeating twice, then ``weight`` (o, i, 3, 3).

    Along one axis, output 2n + p reads the repeated input at 2n + p + tap - 1, which is input n + (p + tap - 1) // 2;
    a transposed convolution of stride 2 and padding 1 lets input m reach output 2m + j - 1 through kernel entry j.
    """
    reach = torch.zeros(4, 3, dtype=torch.float64)
    for phase in (0, 1):
        for tap in range(3):
            reach[phase + 1 - 2 * ((phase + tap - 1) // 2), tap] = 1.0
    return torch.einsum("ay,bx,oiyx->ioab", reach, reach, weight.double()).float()
