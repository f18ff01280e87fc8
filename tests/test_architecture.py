"""The map of the house is true: every module stands in docs/architecture.md, with the first line of its docstring."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("anyflow_rt", "engines", "kernels", "benchmarks")


def _modules() -> list[str]:
    listed = subprocess.run(["git", "ls-files", *FOLDERS], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split() if name.endswith(".py")]


def expected_line(name: str) -> str | None:
    """``- `path`: summary``; None for a package file that says nothing."""
    docstring = ast.get_docstring(ast.parse((ROOT / name).read_text(encoding="utf-8")))
    if docstring is None:
        assert name.endswith("__init__.py"), f"{name} has no docstring"
        return None
    return f"- `{name}`: {docstring.splitlines()[0]}"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")
def test_every_module_is_on_the_map() -> None:
    expected = {line for name in _modules() if (line := expected_line(name))}
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    found = {line for line in text.splitlines() if line.startswith("- `")}
    assert found == expected
