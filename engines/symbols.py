"""Symbolic dimensions (``B``, ``2*h``): their sizes, from the shapes of some inputs."""

from __future__ import annotations

from collections.abc import Mapping

from anyflow_rt.engines.engine import TensorSpec

Shape = tuple[int | None, ...]
"""A shape with None where any size may come."""


def resolve(specs: Mapping[str, TensorSpec], known: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shapes of all ``specs``, as far as the shapes of those in ``known`` fix them.

    A dimension is a number, a symbol or a multiple of one (``2*h``), as the exporters write them. Raises ValueError
    where a known shape does not fit its spec.
    """
    sizes: dict[str, int] = {}
    for name, shape in known.items():
        for wanted, size in zip(specs[name].shape, shape, strict=True):
            if size is None or wanted is None:
                continue
            if isinstance(wanted, int):
                if size != wanted:
                    raise ValueError(f"input {name} is fixed to {wanted} where {size} is given")
                continue
            factor, symbol = _parts(wanted)
            if size % factor or sizes.setdefault(symbol, size // factor) != size // factor:
                raise ValueError(f"input {name} has size {size} for {wanted}, which contradicts another input")
    return {name: tuple(_size(wanted, sizes) for wanted in spec.shape) for name, spec in specs.items()}


def _parts(dimension: str) -> tuple[int, str]:
    """(3, "h") of "3*h", (1, "h") of "h"."""
    factor, star, symbol = dimension.partition("*")
    return (int(factor), symbol) if star and factor.isdigit() else (1, dimension)


def _size(dimension: int | str | None, sizes: Mapping[str, int]) -> int | None:
    if not isinstance(dimension, str):
        return dimension
    factor, symbol = _parts(dimension)
    return factor * sizes[symbol] if symbol in sizes else None
