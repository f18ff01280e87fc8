"""Amounts of memory and disk in words: GB, or MB where it is less than one."""

from __future__ import annotations


def amount(size: int) -> str:
    """``size`` bytes, to a tenth of a GB; under 1 GB to a MB, under 10 MB to a tenth of it."""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"
