"""Fidelity: how close a video is to the many-step one of the same seed. It is not quality.

A few-step video may be as good as the many-step one and yet another video: then fidelity is low and nothing is wrong.
Two references are given, N_ref steps and twice as many, because a reference has an error of its own: where the two
disagree with each other, closeness to one of them says little.

PSNR = 10 log10(255^2 / MSE) over all pixels and channels of the clip; capped at 100 dB, which identical videos (whose
PSNR is infinite) get. SSIM (Wang et al. 2004, Gaussian window of sigma 1.5) is averaged over frames. Both are
scikit-image's.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from anyflow_rt.benchmarks.metrics.contract import Clip, Metric, ScoreKind, Scores
from anyflow_rt.benchmarks.optional import optional_module
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.errors import UsageError

PSNR_CAP = 100.0
"""dB. One pixel that is off by one, in a clip of 64x64x17, gives 101."""
SMALLEST_SIDE = 11
"""Pixels: SSIM's window."""


class Fidelity(Metric):
    """PSNR and SSIM to the reference, and to the reference at twice the steps."""

    name = "fidelity"
    needs_reference = True
    scores = (
        ScoreKind("psnr", "dB", True, "PSNR to the reference of the same seed, at most 100"),
        ScoreKind("ssim", "", True, "SSIM to the reference of the same seed, averaged over frames"),
        ScoreKind("psnr_doubled", "dB", True, "PSNR to the reference at twice the steps"),
        ScoreKind("ssim_doubled", "", True, "SSIM to the reference at twice the steps"),
    )

    def check(self, prompts: Sequence[str]) -> None:
        """Raises MissingPackageError without scikit-image. Any prompt will do."""
        _metrics()

    def check_size(self, size: VideoSize) -> None:
        """Raises UsageError for frames smaller than SSIM's window, or a single one."""
        super().check_size(size)
        _check_sides(size.height, size.width)

    def _score(self, clip: Clip) -> Scores:
        assert clip.reference is not None
        _check_sides(*clip.frames.shape[1:3])
        plain, doubled = clip.reference.frames, clip.reference.doubled
        return Scores(
            {
                "psnr": psnr(plain, clip.frames),
                "ssim": ssim(plain, clip.frames),
                "psnr_doubled": psnr(doubled, clip.frames),
                "ssim_doubled": ssim(doubled, clip.frames),
            }
        )


def _check_sides(height: int, width: int) -> None:
    if min(height, width) < SMALLEST_SIDE:
        raise UsageError(f"fidelity of frames of {height}x{width}: SSIM needs {SMALLEST_SIDE} pixels a side")


def psnr(reference: np.ndarray, frames: np.ndarray) -> float:
    """PSNR in dB of uint8 (T, H, W, 3), at most ``PSNR_CAP``."""
    if np.array_equal(reference, frames):
        return PSNR_CAP
    return min(PSNR_CAP, float(_metrics().peak_signal_noise_ratio(reference, frames, data_range=255)))


def ssim(reference: np.ndarray, frames: np.ndarray) -> float:
    """SSIM of uint8 (T, H, W, 3), averaged over frames."""
    similarity = _metrics().structural_similarity
    options = {"data_range": 255, "channel_axis": -1, "gaussian_weights": True, "use_sample_covariance": False}
    return float(np.mean([similarity(one, other, **options) for one, other in zip(reference, frames, strict=True)]))


def _metrics() -> ModuleType:
    return optional_module("skimage.metrics", "the fidelity metric")
