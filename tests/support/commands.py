"""Commands that must fail as the contract says."""

from __future__ import annotations

import pytest

from anyflow_rt.cli.main import main


def fails(capsys: pytest.CaptureFixture[str], arguments: list[str], *said: str, code: int | None = None) -> str:
    """Run a command that must fail as the contract says; its one line."""
    capsys.readouterr()
    try:
        found = main(arguments)
    except SystemExit as stopped:  # argparse ends the process by itself
        found = int(stopped.code or 0)
    out, error = capsys.readouterr()
    assert found in ((1, 2) if code is None else (code,)), error
    assert out == ""
    assert error.startswith("anyflow-rt"), error
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    assert "a defect of anyflow-rt" not in error
    for words in said:
        assert words in error, error
    return error
