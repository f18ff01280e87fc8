"""The prompts of a sweep: the captions of the shapes world, or a file with one prompt a line."""

from __future__ import annotations

from pathlib import Path

from anyflow_rt.benchmarks.results.values import UNKNOWN
from anyflow_rt.benchmarks.shapes.captions import held_out_prompts
from anyflow_rt.errors import UsageError

SHAPES = "shapes"
"""Stands for the held-out captions of the shapes world."""
LONGEST = 20_000
"""Characters of one prompt; more is a file of something else."""


def read_prompts(source: str, count: int | None) -> tuple[str, ...]:
    """The first ``count`` prompts (all where None) of a file, or of the shapes world where ``source`` is "shapes".

    A file is UTF-8 text, one prompt a line; empty lines and lines that begin with # are left out. Raises UsageError
    that names the file and the line for anything else, for a prompt given twice, and for fewer prompts than asked for.
    """
    if count is not None and count < 1:
        raise UsageError(f"{count} prompts asked for; give a number of at least 1")
    if source == SHAPES:
        return tuple(prompt for prompt, _ in held_out_prompts(64 if count is None else count))
    prompts = tuple(_from_file(Path(source)))
    if count is not None and count > len(prompts):
        raise UsageError(f"{count} prompts asked for and {source} has {len(prompts)}; add some or ask for fewer")
    return prompts[:count]


def describe_source(source: str) -> str:
    """Where prompts come from, for people: a file by its name alone, since results are given to others."""
    if source == UNKNOWN:
        return source
    return "held-out captions of the shapes world" if source == SHAPES else f"the file {Path(source).name}"


def place_of(prompt: str, source: str) -> str:
    """Where a prompt stands, as the beginning of a message; empty where it is in no file."""
    if source in (SHAPES, UNKNOWN):
        return ""
    return f"line {_from_file(Path(source))[prompt]} of the prompts file {source}: "


def _from_file(path: Path) -> dict[str, int]:
    """Prompt -> number of its line, in their order."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the prompts file {path}: {error.strerror}; give another --prompts") from error
    lines: dict[str, int] = {}
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        where = f"line {number} of the prompts file {path}"
        try:
            prompt = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise UsageError(f"{where} is not UTF-8 text ({error.reason}); save the file as UTF-8") from error
        if not prompt or prompt.startswith("#"):
            continue
        if len(prompt) > LONGEST or not prompt.replace("\t", " ").isprintable():
            shown = prompt[:40].encode("unicode_escape").decode()
            raise UsageError(f"{where} is no prompt ({shown!r}...): give plain text of at most {LONGEST} characters")
        if prompt in lines:
            raise UsageError(f"{where} repeats line {lines[prompt]}; remove one, --seeds gives several videos of each")
        lines[prompt] = number
    if not lines:
        raise UsageError(f"the prompts file {path} has no prompt; write one a line")
    return lines
