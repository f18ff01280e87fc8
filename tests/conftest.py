"""One scratch directory a session, shared by its worker processes; nothing is read from or left in the user's own."""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest

SCRATCH = "ANYFLOW_RT_TEST_DIRECTORY"


def pytest_configure(config: pytest.Config) -> None:
    """The controlling process makes the directory; its workers inherit the name."""
    if not hasattr(config, "workerinput"):
        os.environ[SCRATCH] = tempfile.mkdtemp(prefix="anyflow-rt-tests-")
    os.environ["XDG_CACHE_HOME"] = os.path.join(os.environ[SCRATCH], "cache")
    os.environ["XDG_STATE_HOME"] = os.path.join(os.environ[SCRATCH], "state")


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ[SCRATCH], ignore_errors=True)
