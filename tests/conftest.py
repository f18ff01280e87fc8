"""One scratch directory a session, shared by its worker processes; nothing is read from or left in the user's own.

Where a worker dies of a signal, where its threads were is told at the end, beside the test that it ran.
"""

from __future__ import annotations

import faulthandler
import os
import shutil
import tempfile
from pathlib import Path

import pytest

SCRATCH = "ANYFLOW_RT_TEST_DIRECTORY"


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """The controlling process makes the directory; its workers inherit the name. Last, as pytest sets a handler too."""
    if not hasattr(config, "workerinput"):
        os.environ[SCRATCH] = tempfile.mkdtemp(prefix="anyflow-rt-tests-")
    os.environ["XDG_CACHE_HOME"] = os.path.join(os.environ[SCRATCH], "cache")
    os.environ["XDG_STATE_HOME"] = os.path.join(os.environ[SCRATCH], "state")
    if hasattr(config, "workerinput"):
        # Open as long as the process is.
        faulthandler.enable(file=(Path(os.environ[SCRATCH]) / f"died-{os.getpid()}").open("wb"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for path in sorted(Path(os.environ[SCRATCH]).glob("died-*")):
        if told := path.read_text(errors="replace"):
            terminalreporter.section(path.name)
            terminalreporter.write_line(told)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ[SCRATCH], ignore_errors=True)
