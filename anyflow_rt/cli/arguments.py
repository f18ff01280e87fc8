"""The command line's parser: mistakes in one line, and values read with a message that says what fits."""

from __future__ import annotations

import argparse
import math
from typing import NoReturn

LONGEST_ECHO = 60
"""Characters of a mistaken value that are repeated to the user."""


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is one line (without the usage summary) and flags cannot be shortened.

    A shortened flag would change its meaning the day another one begins alike.
    """

    def __init__(self, **options: object) -> None:
        super().__init__(**{"allow_abbrev": False, **options})  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 after one line on stderr."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; see  {self.prog} --help\n")


def not_empty(text: str) -> str:
    """A text with something in it: an empty path would be the current directory."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is empty; give a value, or leave the flag out")
    return text


def whole_number(text: str) -> int:
    """An int in decimal digits; its range is the library's business."""
    try:
        return int(_plain(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{_echo(text)} is no whole number; give one such as 4") from None


def number(text: str) -> float:
    """A finite float."""
    try:
        value = float(_plain(text))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{_echo(text)} is no number; give one such as 1.5")
    return value


def _plain(text: str) -> str:
    """As it is, but what Python reads as a number and people do not (1_0 is 10 there) raises ValueError."""
    if "_" in text:
        raise ValueError(text)
    return text


def _echo(text: str) -> str:
    return repr(text if len(text) <= LONGEST_ECHO else text[: LONGEST_ECHO - 3] + "...")
