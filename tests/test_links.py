"""Links of the documents: what they name in this repository is there, and is tracked."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"""\]\(\s*<?([^)\s>]+)|(?:src|href)=["']([^"']+)["']""")
"""Markdown's [text](target "title") and ![text](target), and HTML's."""
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|#|//")


def tracked() -> set[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(filter(None, listed.stdout.split("\0")))


def targets(text: str) -> list[str]:
    """The relative links of a document, without their anchors."""
    found = (first or second for first, second in LINK.findall(re.sub(r"(?s)```.*?```|`[^`\n]*`", "", text)))
    return [target.partition("#")[0] for target in found if not ELSEWHERE.match(target)]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")
def test_relative_links_point_to_tracked_files() -> None:
    files = tracked()
    folders = {parent.as_posix() for name in files for parent in Path(name).parents}
    missing = []
    for name in sorted(name for name in files if name.endswith(".md") and (ROOT / name).is_file()):
        for target in targets((ROOT / name).read_text(encoding="utf-8")):
            place = (ROOT / name).parent.joinpath(target).resolve()
            relative = place.relative_to(ROOT).as_posix() if place.is_relative_to(ROOT) else str(place)
            if relative not in files | folders:
                missing.append(f"{name} links to {target}")
    assert not missing


def test_what_counts_as_a_relative_link() -> None:
    text = '[a](docs/x.md#top) ![b](<y.png>) [c](https://z) [d](#here) `[e](f)` <img src="g.gif"> ```\n[h](i)\n```'
    assert targets(text) == ["docs/x.md", "y.png", "g.gif"]
