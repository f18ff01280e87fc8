"""Every metric keeps the contract: the same names, finite numbers, the same twice, and bad input refused in words."""

from collections.abc import Sequence

import numpy as np
import pytest
from support.world_clips import noisy, random_frames, true_clips

from anyflow_rt.benchmarks import optional
from anyflow_rt.benchmarks.metrics.contract import Clip, Metric, Reference, ScoreKind, Scores, SetItem
from anyflow_rt.benchmarks.metrics.registry import NAMES, metric, metrics
from anyflow_rt.errors import AnyflowError, MissingPackageError, UsageError

OURS = ("shapes", "fidelity", "motion")
PACKAGES = {"shapes": "scipy", "fidelity": "skimage", "motion": "skimage"}


def reference(frames: np.ndarray) -> Reference:
    return Reference(32, noisy(frames, 3, seed=1), noisy(frames, 3, seed=2))


@pytest.mark.parametrize("name", NAMES)
def test_what_a_metric_says_of_itself(name: str) -> None:
    made = metric(name)
    assert made.name == name and made.headline is made.scores[0]
    kinds = [*made.scores, *made.set_scores]
    assert len({kind.name for kind in kinds}) == len(kinds)
    assert all(kind.meaning and len(kind.meaning) < 100 for kind in kinds)
    assert made.headline.higher_is_better is not None


@pytest.mark.parametrize("name", OURS)
def test_scores_are_named_finite_and_repeatable(name: str) -> None:
    made = metric(name)
    clips = true_clips(2)
    made.check([prompt for prompt, _, _ in clips])
    for prompt, _, frames in clips:
        for shown in (frames, noisy(frames, 30), random_frames(), np.zeros_like(frames)):
            given = reference(frames) if made.needs_reference else None
            kept = shown.copy()
            found = made.score(shown, prompt, given)
            assert list(found.values) == [kind.name for kind in made.scores]
            assert np.isfinite([*found.values.values(), *found.features]).all()
            assert all(type(value) is float for value in (*found.values.values(), *found.features))
            assert found == metric(name).score(shown, prompt, given)
            assert (shown == kept).all()


@pytest.mark.parametrize("name", OURS)
def test_many_at_once_are_scored_like_one(name: str) -> None:
    made = metric(name)
    clips = [Clip(frames, prompt, 0, reference(frames)) for prompt, _, frames in true_clips(2)]
    assert made.score_many(clips) == [made.score(clip.frames, clip.prompt, clip.reference) for clip in clips]
    assert made.score_many([]) == []


@pytest.mark.parametrize("name", OURS)
def test_other_arrays_are_refused(name: str) -> None:
    made, (prompt, _, frames) = metric(name), true_clips(1)[0]
    for odd in (frames[:1], frames[0], frames.astype(np.float32), frames[..., :1]):
        with pytest.raises(UsageError, match=rf"metric {name}: frames of .*uint8 .T, H, W, 3"):
            made.score(odd, prompt, reference(frames))


@pytest.mark.parametrize("name", OURS)
def test_sets(name: str) -> None:
    made = metric(name)
    items = [SetItem(prompt, 0, made.score(f, prompt, reference(f)).features) for prompt, _, f in true_clips(3)]
    found = made.score_set(items)
    assert list(found) == [kind.name for kind in made.set_scores]
    assert found == metric(name).score_set(items)
    if made.set_scores:
        with pytest.raises(UsageError, match="at least one"):
            made.score_set([])


@pytest.mark.parametrize("name", OURS)
def test_a_missing_package_is_named_with_its_mend(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = metric(name)

    def missing(module: str) -> None:
        assert module.split(".")[0] in PACKAGES[name]
        raise ModuleNotFoundError(name=module.split(".")[0])

    monkeypatch.setattr(optional, "import_module", missing)
    with pytest.raises(MissingPackageError, match=rf"the {name} metric .*pip install 'anyflow-rt\[bench\]'"):
        made.check([])


def test_names() -> None:
    assert NAMES == ("shapes", "fidelity", "motion", "vbench")
    assert [made.name for made in metrics(["motion", "shapes"])] == ["motion", "shapes"]


@pytest.mark.parametrize("name", ["psnr", "", "Shapes", "shapes "])
def test_unknown_names_list_the_known(name: str) -> None:
    with pytest.raises(UsageError, match=rf"metric '{name}' is unknown: use shapes, fidelity, motion, vbench"):
        metrics(["motion", name])


def test_no_name_and_a_name_twice() -> None:
    with pytest.raises(UsageError, match="no metric asked for: use one or more of shapes"):
        metrics([])
    with pytest.raises(UsageError, match="'motion' is asked for twice"):
        metrics(["motion", "shapes", "motion"])


def test_a_metric_that_breaks_the_contract_is_caught() -> None:
    class Broken(Metric):
        name = "broken"
        scores = (ScoreKind("one", "", True, "one"),)

        def check(self, prompts: Sequence[str]) -> None: ...

        def _score(self, clip: Clip) -> Scores:
            return Scores({"one": float("nan")})

    with pytest.raises(AnyflowError, match=r"metric broken gave .*nan"):
        Broken().score(random_frames(), "")
