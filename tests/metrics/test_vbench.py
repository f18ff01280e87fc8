"""VBench as a guest: what is missing is said before any work; what it answers comes back by video and dimension.

The package itself and its networks are not here: a stand-in with its call and its results file tests what is ours.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest
from support.world_clips import true_clips

from anyflow_rt.benchmarks.metrics.contract import Clip
from anyflow_rt.benchmarks.metrics.vbench import WEIGHTS, VBench
from anyflow_rt.errors import AnyflowError, CheckpointError, MissingPackageError, UsageError

STAND_IN = """
import json
from pathlib import Path

class VBench:
    def __init__(self, device, full_info_dir, output_path):
        self.output = Path(output_path)

    def evaluate(self, videos_path, name, prompt_list, dimension_list, local, mode):
        assert local and mode == "custom_input"
        videos = sorted(Path(videos_path).iterdir(), reverse=True)
        assert {video.name for video in videos} == set(prompt_list), "a prompt for every video"
        found = {
            dimension: [0.0, [
                {"video_path": str(video), "video_results": len(prompt_list[video.name]) + place}
                for video in videos if video.stat().st_size > 500
            ]]
            for place, dimension in enumerate(dimension_list)
        }
        (self.output / f"{name}_eval_results.json").write_text(json.dumps(found))
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package called vbench for child processes, and an empty cache of networks."""
    (tmp_path / "site" / "vbench").mkdir(parents=True)
    module = tmp_path / "site" / "vbench" / "__init__.py"
    module.write_text(STAND_IN)
    (tmp_path / "site" / "torch.py").write_text(
        "def device(name): return name\nclass cuda: is_available = staticmethod(lambda: False)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("ANYFLOW_RT_VBENCH_PYTHON", raising=False)
    return module


def networks(cache: Path, *dimensions: str) -> None:
    for file in (file for name in dimensions for file in WEIGHTS[name]):
        (cache / file).parent.mkdir(parents=True, exist_ok=True)
        (cache / file).touch()


@pytest.mark.skipif(find_spec("vbench") is not None, reason="vbench is installed here")
def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANYFLOW_RT_VBENCH_PYTHON", raising=False)
    with pytest.raises(
        MissingPackageError, match=r"ANYFLOW_RT_VBENCH_PYTHON.*run  pip install 'anyflow-rt\[vbench\]'$"
    ):
        VBench().check([])


def test_without_its_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ANYFLOW_RT_VBENCH_PYTHON", str(tmp_path / "python"))
    with pytest.raises(UsageError, match=r"ANYFLOW_RT_VBENCH_PYTHON=.*cannot be run \(No such file"):
        VBench().check([])


def test_without_its_networks(stand_in: Path, tmp_path: Path) -> None:
    networks(tmp_path / "cache", "motion_smoothness")
    with pytest.raises(CheckpointError, match=r"cache: raft_model/models/raft-things.pth missing"):
        VBench(["motion_smoothness", "dynamic_degree"]).check([])


def test_scores_come_back_by_video_and_dimension(stand_in: Path, tmp_path: Path) -> None:
    networks(tmp_path / "cache", "imaging_quality")
    made = VBench(["temporal_flickering", "imaging_quality"])
    clips = [Clip(frames, prompt, 0) for prompt, _, frames in true_clips(3)]
    found = made.score_many(clips)
    lengths = [len(clip.prompt) for clip in clips]
    assert [scores.values["temporal_flickering"] for scores in found] == lengths
    assert [scores.values["imaging_quality"] for scores in found] == [(length + 1) / 100 for length in lengths]
    assert made.headline.name == "temporal_flickering"


def test_its_failures_are_told(stand_in: Path) -> None:
    clip = Clip(true_clips(1)[0][2], "a prompt", 0)
    stand_in.write_text(STAND_IN.replace("found = {", "raise RuntimeError('out of memory')\n        found = {"))
    with pytest.raises(AnyflowError, match="VBench failed with exit code 1: RuntimeError: out of memory"):
        VBench(["temporal_flickering"]).score_many([clip])
    stand_in.write_text(STAND_IN.replace("> 500", "> 1e9"))
    with pytest.raises(AnyflowError, match="no temporal_flickering for video 0"):
        VBench(["temporal_flickering"]).score_many([clip])


@pytest.mark.parametrize("dimensions", [[], ["color"], ["imaging_quality", "total"]])
def test_other_dimensions_are_refused(dimensions: list[str]) -> None:
    with pytest.raises(UsageError, match=r"VBench dimension .*: use some of temporal_flickering"):
        VBench(dimensions)


def test_the_process_knows_nothing_of_this_package() -> None:
    from anyflow_rt.benchmarks.metrics.vbench import PROCESS

    assert PROCESS.is_file() and "anyflow_rt" not in PROCESS.read_text()
