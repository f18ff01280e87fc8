"""The flags of ``anyflow-rt build`` that say how TensorRT engines are made."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from anyflow_rt.cli.arguments import whole_number

if TYPE_CHECKING:
    from anyflow_rt.engines.geometry import VideoSize
    from anyflow_rt.engines.tensorrt.settings import TensorRtSettings


def add_tensorrt_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags, in a group of their own."""
    group = parser.add_argument_group("TensorRT engines")
    for name, which in (("--smallest", "smallest video"), ("--largest", "largest video")):
        group.add_argument(
            name, type=video_size, metavar="FxHxW", help=f"{which}, frames x height x width (default: one size only)"
        )
    group.add_argument("--batch", type=whole_number, default=1, help="the most videos of one call (default 1)")
    group.add_argument(
        "--prompt-lengths",
        type=lengths,
        metavar="N,N",
        help="tokens prompts are filled up to (default 32,64,128,256,512)",
    )
    group.add_argument(
        "--cross-keys", default="collapsed", help="collapsed (default): padding is two keys; all: every position is one"
    )
    group.add_argument("--optimization-level", type=whole_number, help="0 to 5; higher builds longer")
    group.add_argument("--weight-streaming", action="store_true", help="weights need not all fit the GPU")
    group.add_argument("--refit", action="store_true", help="weights can be replaced in the engine")
    group.add_argument("--strip", action="store_true", help="engines without weights, which loading takes from onnx/")
    group.add_argument("--version-compatible", action="store_true", help="runs with later versions of the package too")
    group.add_argument(
        "--hardware", default="none", help="none, ampere_plus or same_compute_capability (enterprise TensorRT)"
    )
    group.add_argument(
        "--triton-kernels",
        default="none",
        help="none (default); norms: our kernels for all but products and attention; all (enterprise TensorRT)",
    )


def tensorrt_settings(options: argparse.Namespace) -> TensorRtSettings:
    """What the flags say. Raises UsageError for what cannot be."""
    from anyflow_rt.engines.tensorrt.settings import PROMPT_LENGTHS, TensorRtSettings

    return TensorRtSettings(
        smallest=options.smallest,
        largest=options.largest,
        batch=options.batch,
        prompt_lengths=options.prompt_lengths or PROMPT_LENGTHS,
        cross_keys=options.cross_keys,
        optimization_level=options.optimization_level,
        weight_streaming=options.weight_streaming,
        refit=options.refit,
        strip=options.strip,
        version_compatible=options.version_compatible,
        hardware=options.hardware,
        triton_kernels=options.triton_kernels,
    )


def video_size(text: str) -> VideoSize:
    """``81x480x832`` -> frames, height, width."""
    from anyflow_rt.engines.geometry import VideoSize

    try:
        frames, height, width = (int(part) for part in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give frames x height x width, as 81x480x832") from None
    return VideoSize(frames, height, width)


def lengths(text: str) -> tuple[int, ...]:
    """``32,64`` -> (32, 64)."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} are no lengths; give whole numbers, as 32,128,512") from None
