"""VBench (Huang et al. 2024), where it is installed: its dimensions that score any video.

The ``vbench`` package pins an old NumPy and an old transformers, so it cannot live beside this project: it runs in an
interpreter of its own, named by ``ANYFLOW_RT_VBENCH_PYTHON`` (default: this one, where vbench happens to be there).
Its networks must be on disk already, under ``VBENCH_CACHE_DIR`` (default ``~/.cache/vbench``): a benchmark does not
download gigabytes unasked.

A dimension alone is noisy, and no total is computed: VBench's total needs all 16 dimensions on its own prompts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from anyflow_rt.benchmarks.metrics.contract import Clip, Metric, ScoreKind, Scores
from anyflow_rt.errors import AnyflowError, CheckpointError, MissingPackageError, UsageError

WEIGHTS: dict[str, tuple[str, ...]] = {
    "temporal_flickering": (),
    "motion_smoothness": ("amt_model/amt-s.pth",),
    "dynamic_degree": ("raft_model/models/raft-things.pth",),
    "imaging_quality": ("pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",),
    "aesthetic_quality": ("clip_model/ViT-L-14.pt", "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth"),
    "background_consistency": ("clip_model/ViT-B-32.pt",),
    "subject_consistency": (
        "dino_model/dino_vitbase16_pretrain.pth",
        "dino_model/facebookresearch_dino_main/hubconf.py",
    ),
    "overall_consistency": ("ViCLIP/ViClip-InternVid-10M-FLT.pth", "ViCLIP/bpe_simple_vocab_16e6.txt.gz"),
}
"""Dimension -> the files it reads, below VBench's cache, in vbench 0.1.5."""
MEANINGS = {
    "temporal_flickering": "1 less the mean change between frames; a frozen video gets 1",
    "motion_smoothness": "agreement with interpolated frames (AMT)",
    "dynamic_degree": "1 where the fastest pixels move far enough (RAFT), else 0",
    "imaging_quality": "freedom from noise and blur (MUSIQ)",
    "aesthetic_quality": "LAION's aesthetic score",
    "background_consistency": "CLIP similarity of frames",
    "subject_consistency": "DINO similarity of frames",
    "overall_consistency": "ViCLIP similarity of video and prompt",
}
DEFAULT_DIMENSIONS = ("imaging_quality", "motion_smoothness", "dynamic_degree", "subject_consistency")
PERCENT_DIMENSIONS = frozenset({"imaging_quality"})
"""Given per video as 0 to 100, where VBench's own average divides by 100."""
PROCESS = Path(__file__).with_name("vbench_process.py")
FRAMES_PER_SECOND = 16.0


class VBench(Metric):
    """VBench's dimensions, the first of them the headline. ``fps`` counts for dynamic_degree, which samples by time."""

    name = "vbench"
    at_once = True

    def __init__(self, dimensions: Sequence[str] = DEFAULT_DIMENSIONS, fps: float = FRAMES_PER_SECOND) -> None:
        odd = [name for name in dimensions if name not in WEIGHTS]
        if odd or not dimensions:
            raise UsageError(f"VBench dimension {', '.join(odd) or 'missing'}: use some of {', '.join(WEIGHTS)}")
        self.dimensions = tuple(dimensions)
        self.fps = fps
        self.scores = tuple(ScoreKind(name, "", True, MEANINGS[name]) for name in dimensions)

    def check(self, prompts: Sequence[str]) -> None:
        """Raises MissingPackageError without vbench, CheckpointError without its networks. Any prompt will do."""
        find = "import sys, importlib.util; sys.exit(importlib.util.find_spec('vbench') is None)"
        interpreter = _interpreter()
        try:
            missing = subprocess.run([interpreter, "-c", find], capture_output=True, check=False).returncode != 0
        except OSError as error:
            raise UsageError(
                f"ANYFLOW_RT_VBENCH_PYTHON={interpreter} cannot be run ({error.strerror}): name the python of an "
                "environment with vbench"
            ) from error
        if missing:
            purpose = f"the vbench metric, run by {interpreter} (ANYFLOW_RT_VBENCH_PYTHON names another python),"
            raise MissingPackageError("vbench", "vbench", purpose)
        cache = _cache()
        lacking = [file for name in self.dimensions for file in WEIGHTS[name] if not (cache / file).exists()]
        if lacking:
            raise CheckpointError(
                f"VBench's networks are not all in {cache}: {', '.join(lacking)} missing; run VBench's own evaluation "
                f"once with load_ckpt_from_local, which fetches them, or set VBENCH_CACHE_DIR"
            )

    def _score_many(self, clips: Sequence[Clip]) -> list[Scores]:
        from anyflow_rt.video import save_video

        if not clips:
            return []
        self.check(())
        with tempfile.TemporaryDirectory(prefix="anyflow-rt-vbench-") as place:
            videos = Path(place) / "videos"
            videos.mkdir()
            names = [f"{number:06}.mp4" for number in range(len(clips))]
            for name, clip in zip(names, clips, strict=True):
                save_video(videos / name, clip.frames, fps=self.fps)
            job = Path(place) / "job.json"
            prompts = {name: clip.prompt for name, clip in zip(names, clips, strict=True)}
            job.write_text(json.dumps({"prompts": prompts, "dimensions": self.dimensions}), encoding="utf-8")
            found = _run(job)
        return [Scores({kind: self._value(found, kind, name) for kind in self.dimensions}) for name in names]

    def _value(self, found: Mapping[str, Mapping[str, float]], dimension: str, name: str) -> float:
        if name not in found.get(dimension, {}):
            raise AnyflowError(f"VBench gave no {dimension} for video {int(Path(name).stem)}: try fewer dimensions")
        return float(found[dimension][name]) / (100 if dimension in PERCENT_DIMENSIONS else 1)


def _run(job: Path) -> dict[str, dict[str, float]]:
    """dimension -> file name -> score, by VBench in its own process."""
    answer = job.with_name("answer.json")
    command = [_interpreter(), "-P", str(PROCESS), str(job), str(answer)]
    done = subprocess.run(command, cwd=job.parent, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not answer.exists():
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise AnyflowError(f"VBench failed with exit code {done.returncode}: {last}")
    return json.loads(answer.read_text(encoding="utf-8"))


def _interpreter() -> str:
    return os.environ.get("ANYFLOW_RT_VBENCH_PYTHON") or sys.executable


def _cache() -> Path:
    return Path(os.environ.get("VBENCH_CACHE_DIR") or Path.home() / ".cache" / "vbench")
