"""What a comparison of two results says: a verdict for each figure, an exit code, lines for a terminal."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from anyflow_rt.benchmarks.results.summary import CONFIDENCE
from anyflow_rt.benchmarks.results.tables import Table
from anyflow_rt.benchmarks.results.text import table_lines
from anyflow_rt.benchmarks.results.wording import interval_text
from anyflow_rt.benchmarks.statistics.bootstrap import Interval

IMPROVED, SAME, REGRESSED, INCOMPARABLE = "improved", "same", "regressed", "incomparable"
CHANGED = "changed"
"""Of a fidelity: likeness to a many-step run is no quality, so that neither way is a regression."""


@dataclass(frozen=True)
class Comparison:
    """One figure in both. subject: what, such as "total at 4 steps"; change: after less before (quality) or after over
    before (latency) at the corrected confidence, None where incomparable; reason: why, or what it rests on."""

    kind: str
    subject: str
    verdict: str
    before: float | None
    after: float | None
    change: Interval | None
    reason: str


@dataclass(frozen=True)
class ResultsDifference:
    """Every comparison; notes: what else differs between the two."""

    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]
    confidence: float = CONFIDENCE

    @property
    def exit_code(self) -> int:
        """1 where something regressed significantly, else 0."""
        return int(any(each.verdict == REGRESSED for each in self.comparisons))

    def count(self, verdict: str) -> int:
        """How many comparisons have a verdict."""
        return sum(each.verdict == verdict for each in self.comparisons)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        counts = {verdict: self.count(verdict) for verdict in (IMPROVED, SAME, REGRESSED, CHANGED, INCOMPARABLE)}
        return {
            **counts,
            "confidence": self.confidence,
            "comparisons": [asdict(each) for each in self.comparisons],
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """For a terminal: regressions first, what stayed the same last, then what cannot be compared."""
        lines = [f"note: {note}" for note in self.notes]
        rows = []
        for verdict in (REGRESSED, IMPROVED, CHANGED, SAME):
            for each in self.comparisons:
                if each.verdict == verdict and each.change is not None:
                    text = interval_text(each.change, *(("", "x") if each.kind == "latency" else ("+",)))
                    rows.append((each.subject, f"{each.before:.4g}", f"{each.after:.4g}", text, verdict))
        if rows:
            head = ("what", "before", "after", "change, corrected interval", "verdict")
            lines += table_lines(Table("what changed", head, tuple(rows)))
        left = [each for each in self.comparisons if each.verdict == INCOMPARABLE]
        lines += [f"  {each.subject}: not comparable: {each.reason}" for each in left]
        verdicts = (REGRESSED, IMPROVED, CHANGED, SAME, INCOMPARABLE)
        counts = ", ".join(f"{self.count(verdict)} {verdict}" for verdict in verdicts)
        return [*lines, f"{counts} (all intervals together at {self.confidence:.0%})"]
