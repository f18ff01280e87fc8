"""Convolutions of the VAE in the form that trains quickly on a CPU.

Two things cost most of a training step. PyTorch's bfloat16 weight gradient takes 2 to 25 times as long as the same
sum written as one matrix product, at the sizes met here. And a causal convolution that sees the first frame of a clip
multiplies two thirds of its kernel with the zeros before it. `train_quickly` mends both and changes no result.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from torch import nn
from torch.nn import functional


class _Convolution(torch.autograd.Function):
    """3D convolution without padding; its weight gradient is (output gradient) x (columns of the input)."""

    @staticmethod
    def forward(
        context: Any, inputs: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor, stride: tuple[int, ...]
    ) -> torch.Tensor:
        context.save_for_backward(inputs, kernel)
        context.stride = stride
        return functional.conv3d(inputs, kernel, bias, stride)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, kernel = context.saved_tensors
        (gradient,), stride = gradients, context.stride
        input_gradient = None
        if context.needs_input_grad[0]:
            input_gradient = torch.ops.aten.convolution_backward(
                gradient, inputs, kernel, None, stride, [0] * 3, [1] * 3, False, [0] * 3, 1, [True, False, False]
            )[0]
        if not context.needs_input_grad[1]:
            return input_gradient, None, None, None
        frames, height, width = gradient.shape[2:]
        # Frames first and channels last: the columns of one time offset are then a slice that needs no copy.
        pixels = inputs.permute(2, 0, 3, 4, 1).contiguous()
        down, across = stride[1] * (height - 1) + 1, stride[2] * (width - 1) + 1
        columns = torch.stack(
            [
                pixels[:, :, y : y + down : stride[1], x : x + across : stride[2]]
                for y, x in itertools.product(range(kernel.shape[3]), range(kernel.shape[4]))
            ],
            4,
        )
        rows = gradient.permute(1, 2, 0, 3, 4).reshape(kernel.shape[0], -1)
        products = [
            rows @ columns[t : t + stride[0] * (frames - 1) + 1 : stride[0]].reshape(rows.shape[1], -1)
            for t in range(kernel.shape[2])
        ]
        kernel_gradient = torch.stack(products, 1).view(len(kernel), *kernel.shape[2:], -1).permute(0, 4, 1, 2, 3)
        return input_gradient, kernel_gradient, rows.float().sum(1).to(rows.dtype), None


def _convolve(
    inputs: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None, stride: tuple[int, ...]
) -> torch.Tensor:
    if not torch.is_grad_enabled():
        return functional.conv3d(inputs, kernel, bias, stride)
    if bias is None:
        bias = kernel.new_zeros(len(kernel))
    if torch.is_autocast_enabled("cpu"):
        kind = torch.get_autocast_dtype("cpu")
        inputs, kernel, bias = inputs.to(kind), kernel.to(kind), bias.to(kind)
    return _Convolution.apply(inputs, kernel, bias, stride)


def _causal(convolution: WanCausalConv3d, frames: torch.Tensor, past: torch.Tensor | None = None) -> torch.Tensor:
    kernel, padding = convolution.weight, list(convolution._padding)
    if past is not None and padding[4] > 0:
        frames = torch.cat([past, frames], dim=2)
        padding[4] -= past.shape[2]
    elif frames.shape[2] == 1 and convolution.stride[0] == 1:
        kernel, padding[4] = kernel[:, :, -1:], 0
    return _convolve(functional.pad(frames, padding), kernel, convolution.bias, convolution.stride)


def _image(convolution: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    vertical, horizontal = (int(size) for size in convolution.padding)
    padded = functional.pad(images, (horizontal, horizontal, vertical, vertical)).unsqueeze(2)
    stride = (1, *convolution.stride)
    return _convolve(padded, convolution.weight.unsqueeze(2), convolution.bias, stride).squeeze(2)


def train_quickly(vae: AutoencoderKLWan) -> None:
    """Give every convolution of this VAE the quick form, in place."""
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d):
            module.forward = partial(_causal, module)
        elif isinstance(module, nn.Conv2d):
            module.forward = partial(_image, module)  # type: ignore[method-assign]
