"""The one exception family of anyflow-rt.

Every error a user can cause names the offending value and the mend in its message. ``cli`` prints that message as
one line and exits with ``exit_code``; nothing else in the package decides exit codes.
"""

from __future__ import annotations


class AnyflowError(Exception):
    """Base of every error this package raises on purpose. Exit code 1."""

    exit_code = 1


class UsageError(AnyflowError, ValueError):
    """The caller asked for something that cannot be (a size, a step count, an option). Exit code 2."""

    exit_code = 2


class CheckpointError(AnyflowError):
    """A checkpoint is missing, damaged, or of a kind that is not supported."""


class BundleError(AnyflowError):
    """A bundle is missing, damaged, of another schema, or made for another machine or package version."""


class EngineError(AnyflowError):
    """An engine cannot be loaded or was called with arrays that do not fit its signature."""


class ParityError(AnyflowError):
    """A built bundle does not reproduce the reference within the stated bound."""


class OutputError(AnyflowError):
    """A result cannot be written where the caller asked."""


class BudgetError(AnyflowError):
    """A run was refused because its latency budget cannot be met. Exit code 3. The message names the smallest that can.

    ``smallest``: its seconds; None where nothing was measured yet.
    """

    exit_code = 3

    def __init__(self, message: str, smallest: float | None) -> None:
        super().__init__(message)
        self.smallest = smallest


class Cancelled(AnyflowError):
    """For ``on_step`` and previews to raise: ends the run between two jumps; nothing is written."""


class MissingPackageError(AnyflowError):
    """A package is needed. The message holds the ``pip install`` line that mends it.

    ``extra`` is the extra of ours that has it, None where it is one of our plain dependencies.
    """

    def __init__(self, package: str, extra: str | None, purpose: str) -> None:
        wanted = package if extra is None else f"'anyflow-rt[{extra}]'"
        super().__init__(f"{purpose} needs the package {package!r}, which is not installed: run  pip install {wanted}")
