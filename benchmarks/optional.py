"""Packages of the ``bench`` extra, imported where they are used, or the line that installs them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from anyflow_rt.errors import MissingPackageError

DISTRIBUTIONS = {"skimage": "scikit-image", "PIL": "pillow"}
"""Top-level module -> the name that pip knows, where the two differ."""


def optional_module(name: str, purpose: str) -> ModuleType:
    """Import a module by its dotted name. Raises MissingPackageError where its package is not installed."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        top = name.split(".")[0]
        if error.name != top:
            raise
        raise MissingPackageError(DISTRIBUTIONS.get(top, top), "bench", purpose) from error
