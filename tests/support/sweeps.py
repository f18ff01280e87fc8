"""What a sweep shows and says, unseen and unheard."""

from __future__ import annotations

from anyflow_rt.benchmarks.sweep.journal import Journal
from anyflow_rt.benchmarks.sweep.tally import Tally


class Silent:
    """A display that shows nothing."""

    def update(self, done: int, total: int) -> None: ...

    def close(self) -> None: ...


def silent_tally(journal: Journal) -> Tally:
    """Keeps samples in ``journal`` and says nothing."""
    return Tally(journal, lambda line: None, lambda kind: Silent())
