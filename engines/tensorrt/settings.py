"""What may be chosen about TensorRT engines: sizes, prompts, how they are optimised, what their files hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from anyflow_rt.engines.architecture import Architecture
from anyflow_rt.engines.geometry import VideoSize, latent_size
from anyflow_rt.engines.kernel_nodes.sets import KERNEL_SETS
from anyflow_rt.engines.tensorrt.chunk_shapes import check_frames
from anyflow_rt.engines.tensorrt.package import ENTERPRISE, PACKAGES
from anyflow_rt.engines.typed.graph import CROSS_KEYS
from anyflow_rt.errors import UsageError

PROMPT_LENGTHS = (32, 64, 128, 256, 512)
"""Tokens that a prompt is padded up to; one optimisation profile each."""
OPTIMIZATION_LEVELS = range(6)
HARDWARE = ("none", "ampere_plus", "same_compute_capability")
LONGEST_PROMPT, MOST_VIDEOS = 4096, 64
"""What engines may be built for: far more than is of use, so that a mistyped number is no build of hours."""


@dataclass(frozen=True)
class TensorRtSettings:
    """Of all components of one build.

    smallest, largest: where given, engines take every size from one to the other and are quickest at the bundle's own;
    without them they take that one alone. batch: the most videos, and prompts, of a call. prompt_lengths: ascending.
    cross_keys: one of ``CROSS_KEYS``. optimization_level: 0 to 5, None for the package's own. weight_streaming: weights
    need not all fit the GPU. Enterprise alone: refit: weights can be replaced later; version_compatible: runs with
    later versions of the package; hardware: GPUs beside the target, of ``HARDWARE``; triton_kernels: which parts of the
    denoiser are kernels of ours, of ``KERNEL_SETS``.
    """

    smallest: VideoSize | None = None
    largest: VideoSize | None = None
    batch: int = 1
    prompt_lengths: tuple[int, ...] = PROMPT_LENGTHS
    cross_keys: str = "collapsed"
    optimization_level: int | None = None
    weight_streaming: bool = False
    refit: bool = False
    version_compatible: bool = False
    hardware: str = "none"
    triton_kernels: str = "none"

    def __post_init__(self) -> None:
        if (self.smallest is None) != (self.largest is None):
            raise UsageError("a smallest and a largest size go together; give both or neither")
        if not 1 <= self.batch <= MOST_VIDEOS:
            raise UsageError(f"batch is {self.batch}; give a whole number from 1 to {MOST_VIDEOS}")
        lengths = self.prompt_lengths
        if not lengths or lengths[0] < 1 or list(lengths) != sorted(set(lengths)):
            raise UsageError(f"prompt_lengths is {lengths}; give whole numbers of at least 1, ascending")
        if lengths[-1] > LONGEST_PROMPT:
            raise UsageError(f"prompt_lengths ends at {lengths[-1]}; give at most {LONGEST_PROMPT}")
        if self.cross_keys not in CROSS_KEYS:
            raise UsageError(f"unknown cross_keys {self.cross_keys!r}; choose from {', '.join(CROSS_KEYS)}")
        if self.optimization_level is not None and self.optimization_level not in OPTIMIZATION_LEVELS:
            raise UsageError(f"optimization_level is {self.optimization_level}; choose from 0 to 5")
        if self.hardware not in HARDWARE:
            raise UsageError(f"unknown hardware level {self.hardware!r}; choose from {', '.join(HARDWARE)}")
        if self.triton_kernels not in KERNEL_SETS:
            raise UsageError(f"unknown triton_kernels {self.triton_kernels!r}; choose from {', '.join(KERNEL_SETS)}")
        if self.triton_kernels != "none" and self.hardware != "none":
            raise UsageError(
                f"triton_kernels {self.triton_kernels} are compiled for the target alone and hardware {self.hardware} "
                "asks for other GPUs; leave one of them out"
            )

    def check_size(self, architecture: Architecture, size: VideoSize) -> None:
        """Raise UsageError unless the checkpoint can make the smallest and the largest, and ``size`` lies between; for
        what engines of a causal checkpoint do not have."""
        if architecture.causal is not None:
            check_frames(architecture, latent_size(architecture, self.smallest or size))
            if self.triton_kernels != "none":
                raise UsageError(
                    f"triton_kernels {self.triton_kernels} take no caches of a causal (FAR) checkpoint; leave out "
                    "--triton-kernels"
                )
        if self.smallest is None or self.largest is None:
            return
        for each in (self.smallest, self.largest):
            latent_size(architecture, each)
        for name in ("num_frames", "height", "width"):
            least, usual, most = (getattr(each, name) for each in (self.smallest, size, self.largest))
            if not least <= usual <= most:
                raise UsageError(
                    f"{name} is {usual}, the smallest {least} and the largest {most}; engines are quickest at the "
                    f"bundle's own size, so give it between them (--smallest, --largest, --{name.replace('_', '-')})"
                )

    def check_used(self, engines: Mapping[str, str]) -> None:
        """Raise UsageError for what was chosen here if none of ``engines``, target -> engine, is TensorRT's."""
        if not engines or any(engine in PACKAGES for engine in engines.values()):
            return
        for each in fields(self):
            value = getattr(self, each.name)
            if value != each.default:
                flag = each.name.replace("_", "-")
                others = ", ".join(f"{engine} for {target}" for target, engine in engines.items())
                raise UsageError(
                    f"{each.name} (--{flag}) is about TensorRT engines, and what is built is {others}; leave it out, "
                    f"or use --engine {' or '.join(PACKAGES)} and a GPU as --target"
                )

    def check_package(self, engine: str) -> None:
        """Raise UsageError for what the package ``engine`` does not have.

        TensorRT for RTX 1.7 builds for one target, needs that GPU to make an engine refittable, and comes without the
        lean runtime that version compatibility takes.
        """
        if engine == ENTERPRISE:
            return
        asked = {
            "refit": self.refit,
            "version_compatible": self.version_compatible,
            f"hardware {self.hardware}": self.hardware != "none",
            f"triton_kernels {self.triton_kernels}, as it takes no plugins": self.triton_kernels != "none",
        }
        for name, wanted in asked.items():
            if wanted:
                raise UsageError(f"{engine} builds no engine with {name}; leave it out, or use --engine {ENTERPRISE}")

    def profile_name(self, size: VideoSize) -> str:
        """What the manifest calls engines of these settings for ``size``: frames x height x width."""
        sizes = (size,) if self.smallest is None or self.largest is None else (self.smallest, size, self.largest)
        name = "-".join(f"{each.num_frames}x{each.height}x{each.width}" for each in dict.fromkeys(sizes))
        name += "-all_keys" if self.cross_keys == "all" else ""
        name += "" if self.triton_kernels == "none" else f"-triton_{self.triton_kernels}"
        name += "" if self.batch == 1 else f"-batch{self.batch}"
        return name if self.hardware == "none" else f"{name}-{self.hardware}"
