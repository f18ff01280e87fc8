"""The report directory: complete, drawn again from its file alone, and left as it was by every failure."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.results import PROMPTS, STEPS, make_results

from anyflow_rt.benchmarks.pages.report import prepare_report, redraw_report, write_report
from anyflow_rt.benchmarks.pages.sheet import ContactSheet, sheet_picture
from anyflow_rt.benchmarks.results.file import read_results, write_results
from anyflow_rt.benchmarks.results.values import LatencySamples, Parity, Results, ResultsError
from anyflow_rt.errors import MissingPackageError, OutputError, UsageError

CHARTS = {"quality_vs_steps.png", "latency_vs_steps.png", "pareto.png", "metrics_vs_steps.png"}
FILES = CHARTS | {"results.json", "index.html", "contact_sheet.png"}


def clip(level: int, frames: int = 5) -> np.ndarray:
    return np.full((frames, 16, 16, 3), level, np.uint8)


SHEET = ContactSheet({(prompt, steps): clip(8 * steps - 1) for prompt in PROMPTS[:2] for steps in STEPS})


@pytest.fixture(scope="module")
def results() -> Results:
    """One metric of two series beside fidelity: less to resample."""
    made = make_results(prompts=3)
    kept = [each for each in made.quality if each.metric in ("shapes.right", "fidelity.psnr")]
    return replace(made, quality=tuple(each for each in kept if each.series != "teacher"))


@pytest.fixture(scope="module")
def report(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports") / "new" / "report"
    write_report(results, folder, SHEET)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Page(HTMLParser):
    """Tags with their attributes, and whether every tag that opens closes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_report_is_complete(report: Path, results: Results) -> None:
    assert set(contents(report)) == FILES
    assert read_results(report) == results
    for name in FILES:
        if name.endswith(".png"):
            with Image.open(report / name) as picture:
                assert picture.width == 1024
                assert len(np.unique(np.asarray(picture.convert("L")))) > 5


def test_the_page_needs_nothing_from_elsewhere(report: Path) -> None:
    text = (report / "index.html").read_text()
    page = Page(text)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"https?://|//[a-z]|<script|@import|url\(", text)
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert {each["src"] for each in pictures} == FILES - {"results.json", "index.html"}
    assert all(each["alt"] and each["width"] and each["height"] for each in pictures)


def test_the_page_says_what_was_measured(report: Path, results: Results) -> None:
    text = (report / "index.html").read_text().replace("\u00a0", " ")
    wanted = (
        "AMD EPYC 9555",
        "openvino bf16",
        results.commit,
        "17 frames of 64x64",
        "p95",
        "two runs of every step count",
    )
    assert [each for each in wanted if each not in text] == []
    assert "It is not quality" in text
    assert "the fastest peer everywhere" in text
    assert "50.2 dB" in text


def test_a_report_is_drawn_again_from_its_file_alone(report: Path, tmp_path: Path) -> None:
    first = contents(report)
    redraw_report(report / "results.json", tmp_path / "again")
    assert contents(tmp_path / "again") == first
    redraw_report(tmp_path / "again")
    assert contents(tmp_path / "again") == first


def test_a_file_of_another_name_needs_a_place_for_its_report(report: Path, results: Results, tmp_path: Path) -> None:
    """Beside it there may be another run's results.json, and another run's contact sheet."""
    write_results(results, tmp_path / "old.json")
    (tmp_path / "results.json").write_text("another run")
    (tmp_path / "contact_sheet.png").write_bytes(b"another run")
    with pytest.raises(UsageError, match=r"old\.json is not called results\.json; say where .* --report DIR"):
        redraw_report(tmp_path / "old.json")
    assert (tmp_path / "results.json").read_text() == "another run"
    redraw_report(tmp_path / "old.json", tmp_path / "out")
    assert set(contents(tmp_path / "out")) == FILES - {"contact_sheet.png"}


def test_a_later_report_leaves_no_picture_of_an_earlier_one(results: Results, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    write_report(replace(results, quality=results.quality[:24]), tmp_path, SHEET)
    write_report(replace(results, quality=(), peers=()), tmp_path)
    assert set(contents(tmp_path)) == {"notes.txt", "results.json", "index.html", "latency_vs_steps.png"}
    assert "contact_sheet" not in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize(
    "changed",
    [
        {"latency": (), "peers": ()},
        {"quality": ()},
        {"latency": (), "quality": (), "peers": (), "set_scores": (), "jump_errors": (), "ceiling": None},
        {"latency": (LatencySamples(4, "total", (0.5,)),), "quality": (), "peers": ()},
    ],
    ids=["no times", "no scores", "nothing", "one time"],
)
def test_a_part_of_a_run_makes_a_part_of_a_report(results: Results, changed: dict[str, object], tmp_path: Path) -> None:
    quality = tuple(each for each in results.quality if each.series == "shipped" and each.metric == "shapes.right")
    write_report(replace(results, **{"quality": quality, **changed}), tmp_path)  # type: ignore[arg-type]
    text = (tmp_path / "index.html").read_text()
    Page(text)
    assert set(re.findall(r'src="([^"]+)"', text)) == {name for name in contents(tmp_path) if name.endswith(".png")}


def test_what_a_file_says_cannot_become_markup(results: Results, tmp_path: Path) -> None:
    quality = tuple(each for each in results.quality if each.series == "shipped" and each.metric == "shapes.right")
    odd = replace(
        results,
        quality=tuple(replace(each, series="<b>$x_1$</b>", prompt=f"<i>{each.prompt}</i>") for each in quality),
        notes=("<script>alert(1)</script>",),
        invalid_reasons=("a & b",),
    )
    write_report(odd, tmp_path, ContactSheet({("<i>$prompt_1$</i>", 4): clip(99)}))
    text = (tmp_path / "index.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "not valid: a &amp; b" in text


def test_no_speed_of_a_peer_is_drawn_without_parity(results: Results, tmp_path: Path) -> None:
    write_report(replace(results, quality=(), parity=Parity(False)), tmp_path)
    text = (tmp_path / "index.html").read_text()
    assert "DOES NOT HOLD" in text
    assert "diffusers" not in text


def test_a_failure_leaves_the_older_report(report: Path, results: Results) -> None:
    before = contents(report)
    missing = ContactSheet({("a red circle", 4): report / "none.png"})
    with pytest.raises(OutputError, match=r"cannot read the image .*none\.png"):
        write_report(replace(results, notes=("new",)), report, missing)
    assert contents(report) == before


def test_a_report_that_cannot_be_written_is_refused_before_any_work(results: Results, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match=r"file is a file, not a directory; name another with --report"):
        prepare_report(tmp_path / "file")
    with pytest.raises(OutputError, match=r"cannot write .*below"):
        prepare_report(tmp_path / "file" / "below")
    (tmp_path / "full" / "index.html").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"index\.html: it is a directory"):
        write_report(results, tmp_path / "full")
    assert (tmp_path / "file").read_text() == "mine"
    assert list((tmp_path / "full").iterdir()) == [tmp_path / "full" / "index.html"]


def test_results_of_another_schema_overwrite_nothing(report: Path, tmp_path: Path) -> None:
    before = contents(report)
    (tmp_path / "results.json").write_text('{"schema": 99}')
    with pytest.raises(ResultsError, match="schema is 99"):
        redraw_report(tmp_path, report)
    assert contents(report) == before


@pytest.mark.parametrize("package", ["matplotlib", "jinja2", "scipy"])
def test_a_missing_package_is_named_before_any_work(
    package: str, monkeypatch: pytest.MonkeyPatch, results: Results, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"{package}.*pip install 'anyflow-rt\[bench\]'"):
        write_report(results, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_sheet_shows_each_clip_in_its_place(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(tmp_path / "still.png")
    png = tmp_path / "sheet.png"
    motion = np.stack([clip(level, 1)[0] for level in (40, 1, 90, 2, 140)])
    png.write_bytes(sheet_picture(ContactSheet({("a", 1): motion, ("a", 4): tmp_path / "still.png"})))
    with Image.open(png) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    left, right = pixels[:, : pixels.shape[1] // 2], pixels[:, pixels.shape[1] // 2 :]
    rows = [int(np.argmax((left == level).all(-1).sum(1) > 100)) for level in (40, 90, 140)]
    assert 0 < rows[0] < rows[1] < rows[2]
    assert (right == 200).all(-1).sum() > 1000
    assert (left == 1).all(-1).sum() == 0


def test_frames_that_are_none_are_refused() -> None:
    with pytest.raises(UsageError, match="of no pictures"):
        ContactSheet({})
    with pytest.raises(UsageError, match=r"float32 \(5, 16, 16, 3\); a contact sheet takes uint8"):
        sheet_picture(ContactSheet({("a", 1): clip(1).astype(np.float32)}))
