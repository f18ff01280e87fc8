"""The parts of a sweep: its prompts, its options, and the journal that an interrupt leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anyflow_rt.benchmarks.shapes.captions import held_out_prompts
from anyflow_rt.benchmarks.sweep.journal import NAME, Journal
from anyflow_rt.benchmarks.sweep.options import SweepOptions
from anyflow_rt.benchmarks.sweep.prompts import read_prompts
from anyflow_rt.errors import OutputError, UsageError

SWEEP = {"bundle_id": "b", "steps": [1, 2]}


def prompts_file(folder: Path, content: str | bytes) -> str:
    path = folder / "prompts.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_prompts_of_a_file(tmp_path: Path) -> None:
    source = prompts_file(tmp_path, "\ufeff# a comment\na fox\n\n  two foxes 🦊  \n狐\n")
    assert read_prompts(source, None) == ("a fox", "two foxes 🦊", "狐")
    assert read_prompts(source, 2) == ("a fox", "two foxes 🦊")


def test_prompts_of_the_shapes_world() -> None:
    assert read_prompts("shapes", 3) == tuple(prompt for prompt, _ in held_out_prompts(3))
    assert len(read_prompts("shapes", None)) == 64


@pytest.mark.parametrize(
    ("content", "count", "said"),
    [
        ("", None, "has no prompt; write one a line"),
        ("# nothing\n\n", None, "has no prompt"),
        ("a fox\nb\x00d\n", None, "line 2 of the prompts file"),
        (b"a fox\nb\n\xff\xfe\n", None, "line 3 of the prompts file"),
        ("a fox\nan owl\na fox\n", None, "line 3 .* repeats line 1"),
        ("x" * 20_001, None, "line 1 .* at most 20000"),
        ("a fox\n", 2, "2 prompts asked for and .* has 1"),
        ("a fox\n", 0, "at least 1"),
    ],
)
def test_a_prompts_file_with_a_fault(tmp_path: Path, content: str | bytes, count: int | None, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_prompts(prompts_file(tmp_path, content), count)


def test_a_prompts_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(UsageError, match="cannot read the prompts file"):
            read_prompts(str(path), None)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"steps": ()}, "--steps"),
        ({"steps": (0,)}, "1 to 1000, not 0"),
        ({"steps": (2, 2)}, "twice"),
        ({"prompts": ()}, "--prompts"),
        ({"seeds": 0}, "--seeds is 0"),
        ({"rounds": 4}, "--rounds is 4"),
        ({"jump_videos": -1}, "--jump-videos is -1"),
        ({"compare": "nobody"}, "'nobody' is unknown"),
        ({"compare": "diffusers", "mean_velocity": False}, "--euler"),
    ],
)
def test_options_that_cannot_be(changed: dict[str, object], said: str) -> None:
    given = {"bundle": None, "report": Path("r"), "prompts": ("a",), "metrics": ("motion",)}
    with pytest.raises(UsageError, match=said):
        SweepOptions(**{**given, **changed})


def test_a_journal_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / NAME
    with Journal(path, SWEEP, resume=False) as journal:
        journal.add("quality", ("a", 1), [0.5])
        journal.add("latency", (0, 4), {"total": 0.1})
    path.write_bytes(path.read_bytes() + b'["quality",["b",1],[0.')  # cut off while it was written
    with Journal(path, SWEEP, resume=True) as journal:
        assert journal.get("quality") == {("a", 1): [0.5]}
        assert journal.get("latency") == {(0, 4): {"total": 0.1}}
        journal.add("quality", ("b", 1), [0.7])
    with Journal(path, SWEEP, resume=True) as journal:
        assert journal.get("quality") == {("a", 1): [0.5], ("b", 1): [0.7]}
        journal.finish()
    assert not path.exists()


def test_a_journal_is_neither_overwritten_nor_mixed(tmp_path: Path) -> None:
    path = tmp_path / NAME
    with Journal(path, SWEEP, resume=False) as journal:
        journal.add("quality", ("a", 1), [0.5])
    before = path.read_bytes()
    with pytest.raises(UsageError, match="--resume"):
        Journal(path, SWEEP, resume=False)
    with pytest.raises(UsageError, match=r"steps \[1, 2\] there, \[1\] here"):
        Journal(path, {**SWEEP, "steps": [1]}, resume=True)
    assert path.read_bytes() == before
    path.write_text(json.dumps(["quality", [], 1]) + "\n" + before.decode())
    with pytest.raises(UsageError, match="another run"):
        Journal(path, SWEEP, resume=True)


@pytest.mark.parametrize("line", ["[1, 2", "3", '["quality", 5, 1]', '["quality", [1]]', '["quality", [[]], 1]'])
def test_a_damaged_line_of_a_journal_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / NAME
    path.write_text(f"{json.dumps(SWEEP)}\n{line}\n")
    with pytest.raises(UsageError, match=rf"line 2 of {path} is damaged; remove the file"):
        Journal(path, SWEEP, resume=True)


@pytest.mark.parametrize("content", ["", '{"bundle_id": "b", "st', json.dumps({"other": 1}) + "\n"])
def test_a_journal_without_a_sample_begins_anew_and_is_not_left_behind(tmp_path: Path, content: str) -> None:
    path = tmp_path / NAME
    with pytest.raises(UsageError, match=f"nothing to go on with in {tmp_path}; leave out --resume"):
        Journal(path, SWEEP, resume=True)
    path.write_text(content)
    with (
        pytest.raises(KeyboardInterrupt) as stopped,
        Journal(path, SWEEP, resume=False) as journal,
        journal.interrupts(),
    ):
        raise KeyboardInterrupt
    assert str(stopped.value) == ""
    assert not path.exists()
    path.write_text(content)
    with (
        pytest.raises(KeyboardInterrupt, match=f"1 samples are kept in {path}; go on with --resume"),
        Journal(path, SWEEP, resume=True) as journal,
        journal.interrupts(),
    ):
        journal.add("quality", ("a", 1), [0.5])
        raise KeyboardInterrupt
    assert json.loads(path.read_text().splitlines()[0]) == SWEEP


def test_a_journal_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="--report"):
        Journal(tmp_path / "none" / NAME, SWEEP, resume=False)
