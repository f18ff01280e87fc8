"""``calibration.json`` of a bundle: measured quality at step counts, and the measured error of single jumps."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anyflow_rt.errors import BundleError, OutputError
from anyflow_rt.sampling.schedule import GRID_INTERVALS, MAX_STEPS

SCHEMA = 1
_MEND = "measure it again with  anyflow-rt bench"


@dataclass(frozen=True)
class QualityPoint:
    """The metric of the uniform plan of ``steps`` jumps: mean over ``n`` videos and its interval."""

    steps: int
    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Edge:
    """The error of one jump from node ``start`` to node ``end``, in 32nds of the grid, 32 = noise. ``cost`` >= 0."""

    start: int
    end: int
    cost: float


@dataclass(frozen=True)
class Calibration:
    """What was measured of one bundle. ``edges`` may be empty or have gaps; ``points`` may be empty."""

    bundle_id: str
    metric: str
    higher_is_better: bool
    points: tuple[QualityPoint, ...]
    edges: tuple[Edge, ...]

    def as_json(self) -> dict[str, Any]:
        """The value of ``calibration.json``."""
        return {
            "schema": SCHEMA,
            "bundle_id": self.bundle_id,
            "quality": {
                "metric": self.metric,
                "higher_is_better": self.higher_is_better,
                "points": [asdict(point) for point in self.points],
            },
            "edges": [{"from": edge.start, "to": edge.end, "cost": edge.cost} for edge in self.edges],
        }


def read_calibration(path: Path, bundle_id: str) -> Calibration | None:
    """The bundle's calibration, None where there is no file.

    Raises BundleError, in one line that names the file and the fault, where it cannot be read, is of another schema
    or bundle, or holds values that cannot be.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; mend its permissions or {_MEND}") from error
    try:
        return _parse(json.loads(text), bundle_id)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: {' '.join(str(error).split())}; {_MEND}") from error


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Replace the file in one step: a reader finds the old one or the new. Raises OutputError."""
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            json.dump(calibration.as_json(), file, indent=1)
        os.chmod(file.name, 0o644)
        os.replace(file.name, path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; choose a bundle that can be written") from error


def _parse(value: Any, bundle_id: str) -> Calibration:
    top = _object(value, "the file", {"schema", "bundle_id", "quality", "edges"})
    if top["schema"] != SCHEMA or isinstance(top["schema"], bool):
        raise ValueError(f"schema is {top['schema']!r}, and this anyflow-rt reads {SCHEMA}")
    if top["bundle_id"] != bundle_id:
        raise ValueError(f"bundle_id is {top['bundle_id']!r}, and the bundle is {bundle_id!r}")
    quality = _object(top["quality"], "quality", {"metric", "higher_is_better", "points"})
    if not isinstance(quality["metric"], str):
        raise ValueError(f"quality.metric is {quality['metric']!r}, not a text")
    if not isinstance(quality["higher_is_better"], bool):
        raise ValueError(f"quality.higher_is_better is {quality['higher_is_better']!r}, not true or false")
    points = [_point(each, f"quality.points[{i}]") for i, each in _items(quality["points"], "quality.points")]
    edges = [_edge(each, f"edges[{i}]") for i, each in _items(top["edges"], "edges")]
    _once([point.steps for point in points], "quality.points", "steps")
    _once([(edge.start, edge.end) for edge in edges], "edges", "jump")
    return Calibration(bundle_id, quality["metric"], quality["higher_is_better"], tuple(points), tuple(edges))


def _point(value: Any, where: str) -> QualityPoint:
    each = _object(value, where, {"steps", "mean", "low", "high", "n"})
    return QualityPoint(
        steps=_whole(each["steps"], f"{where}.steps", 1, MAX_STEPS),
        mean=_finite(each["mean"], f"{where}.mean"),
        low=_finite(each["low"], f"{where}.low"),
        high=_finite(each["high"], f"{where}.high"),
        n=_whole(each["n"], f"{where}.n", 1, 10**12),
    )


def _edge(value: Any, where: str) -> Edge:
    each = _object(value, where, {"from", "to", "cost"})
    start = _whole(each["from"], f"{where}.from", 1, GRID_INTERVALS)
    end = _whole(each["to"], f"{where}.to", 0, start - 1)
    cost = _finite(each["cost"], f"{where}.cost")
    if cost < 0:
        raise ValueError(f"{where}.cost is {cost!r}, below 0")
    return Edge(start, end, cost)


def _object(value: Any, where: str, keys: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is not an object")
    if value.keys() != keys:
        missing, unknown = sorted(keys - value.keys()), sorted(value.keys() - keys)
        raise ValueError(f"{where} lacks {missing}" if missing else f"{where} has unknown keys {unknown}")
    return value


def _items(value: Any, where: str) -> enumerate[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{where} is not a list")
    return enumerate(value)


def _whole(value: Any, where: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{where} is {value!r}, not a whole number from {low} to {high}")
    return value


def _finite(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{where} is {value!r}, not a finite number")
    return float(value)


def _once(keys: list[Any], where: str, what: str) -> None:
    twice = {key for key in keys if keys.count(key) > 1} if len(set(keys)) < len(keys) else set()
    if twice:
        raise ValueError(f"{where} has the {what} {sorted(twice)[0]} twice")
