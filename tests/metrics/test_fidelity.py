"""Fidelity: identical is the cap, further is less, and both references are looked at."""

import numpy as np
import pytest
from support.world_clips import noisy, random_frames, true_clips

from anyflow_rt.benchmarks.metrics.contract import Reference
from anyflow_rt.benchmarks.metrics.fidelity import PSNR_CAP, Fidelity, psnr, ssim
from anyflow_rt.errors import UsageError


def test_identical_videos_get_the_cap() -> None:
    (_, _, frames) = true_clips(1)[0]
    found = Fidelity().score(frames, "anything", Reference(32, frames, frames)).values
    assert found == {"psnr": PSNR_CAP, "ssim": 1.0, "psnr_doubled": PSNR_CAP, "ssim_doubled": 1.0}
    nearly = frames.copy()
    nearly[3, 5, 7, 1] ^= 1
    assert 99 < psnr(frames, nearly) <= PSNR_CAP


def test_psnr_by_hand() -> None:
    frames = np.full((4, 16, 16, 3), 100, dtype=np.uint8)
    assert psnr(frames, frames + 10) == pytest.approx(20 * np.log10(25.5))
    black = np.zeros_like(frames)
    assert psnr(black, black + 255) == 0.0


def test_further_away_is_less() -> None:
    (_, _, frames) = true_clips(1)[0]
    shown = [noisy(frames, deviation) for deviation in (1, 4, 16, 64)]
    for measure in (psnr, ssim):
        values = [measure(frames, other) for other in shown]
        assert values == sorted(values, reverse=True) and len(set(values)) == 4
    assert ssim(frames, random_frames()) < 0.05


def test_each_reference_has_its_scores() -> None:
    (_, _, frames) = true_clips(1)[0]
    near, far = noisy(frames, 2), noisy(frames, 20)
    one = Fidelity().score(frames, "", Reference(16, near, far)).values
    other = Fidelity().score(frames, "", Reference(16, far, near)).values
    assert one["psnr"] == other["psnr_doubled"] > one["psnr_doubled"] == other["psnr"]
    assert one["ssim"] == other["ssim_doubled"] > one["ssim_doubled"] == other["ssim"]


def test_bad_references() -> None:
    (_, _, frames) = true_clips(1)[0]
    with pytest.raises(UsageError, match="reference video of the same prompt and seed"):
        Fidelity().score(frames, "")
    for odd in (frames[:9], frames.astype(np.int16)):
        with pytest.raises(UsageError, match="make both at one size"):
            Fidelity().score(frames, "", Reference(32, frames, odd))
    tiny = frames[:, :8]
    with pytest.raises(UsageError, match="8x64: SSIM needs 11"):
        Fidelity().score(tiny, "", Reference(32, tiny, tiny))
