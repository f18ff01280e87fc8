"""How far a sweep has come: parts of one stage, each kept in the journal as it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from anyflow_rt.benchmarks.sweep.journal import Journal, Key


class Display(Protocol):
    """Shows how far long work has come."""

    def update(self, done: int, total: int) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Tally:
    """``say`` gets a line; ``display`` makes the display of one stage."""

    journal: Journal
    say: Callable[[str], None]
    display: Callable[[str], Display]

    def each(self, kind: str, keys: Iterable[Key], measure: Callable[[Key], Any]) -> dict[Key, Any]:
        """What ``measure`` gives for every key, in the order of ``keys``; those in the journal are not done again."""
        wanted, found = list(keys), self.journal.get(kind)
        missing = [key for key in wanted if key not in found]
        shown = self.display(kind)
        try:
            for number, key in enumerate(missing, start=1):
                self.journal.add(kind, key, measure(key))
                shown.update(number, len(missing))
        finally:
            shown.close()
        return {key: found[key] for key in wanted}
