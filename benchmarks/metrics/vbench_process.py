"""One process that runs VBench on a folder of videos; its interpreter need not know this package: see ``vbench``.

``python vbench_process.py JOB ANSWER``: JOB is JSON with ``prompts`` (file name in the folder ``videos`` beside it ->
prompt) and ``dimensions``; ANSWER becomes JSON, dimension -> file name -> score.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(job: Path, answer: Path) -> None:
    """Score the videos of a job."""
    import torch
    from vbench import VBench

    asked = json.loads(job.read_text(encoding="utf-8"))
    place = job.parent
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    VBench(device, str(place), str(place)).evaluate(
        videos_path=str(place / "videos"),
        name="scores",
        prompt_list=asked["prompts"],
        dimension_list=asked["dimensions"],
        local=True,
        mode="custom_input",
    )
    found = json.loads((place / "scores_eval_results.json").read_text(encoding="utf-8"))
    scores = {
        dimension: {Path(video["video_path"]).name: float(video["video_results"]) for video in videos}
        for dimension, (_, videos) in found.items()
    }
    answer.write_text(json.dumps(scores), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
