"""The contract of every engine as one class of tests: subclass it where there is a fixture ``subject``.

Each engine is asked for a jump, z_r = z_t - interval * u: the graph engines for that of a small graph made by hand, the
Triton engine for that of the smallest checkpoint.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyflow_rt.engines.engine import Engine
from anyflow_rt.engines.registry import open_engine
from anyflow_rt.errors import EngineError

TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}
"""||a - b|| / ||b||; bf16 has 8 bits of precision."""


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """||a - b|| / ||b||."""
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b))


@dataclass(frozen=True)
class Subject:
    """An engine's name, its model, and one jump: ``arrays`` with ``latents`` and ``interval`` among them, some of whose
    frames have none; ``output`` names z_r, ``answer`` is it."""

    engine: str
    precision: str
    path: Path
    arrays: dict[str, Any]
    output: str
    answer: np.ndarray

    def open(self, path: Path | None = None, **options: Any) -> Engine:
        """Its model, or the one at ``path``."""
        return open_engine(self.engine, path or self.path, precision=self.precision, **options)


Change = Callable[[Any], Any] | list[float] | int | None
WRONG: list[tuple[dict[str, Change], str]] = [
    ({"interval": None}, "missing: interval; its inputs are latents, "),
    ({"steps": 4}, "unknown: steps"),
    ({"interval": None, "intervall": 4}, "missing: interval; unknown: intervall"),
    ({"latents": [1.0]}, "latents is a list; an array of float32"),
    ({"latents": lambda x: x.astype(float)}, "latents is float64; float32 is needed"),
    ({"latents": lambda x: x[0]}, r"latents has 4 dimensions \(.*\); 5 are needed"),
    ({"latents": lambda x: x[:, :, :3]}, r"size 3 on axis 2; \d+ is needed"),
    ({"interval": lambda x: x[:, :1]}, r"interval has size 1 on axis 1 \(F\); latents has [23]"),
]
"""What is changed of a call, None to leave it out, and what is said."""


class EngineContract:
    """What holds of all engines."""

    def test_inputs_and_outputs_are_described_as_they_are(self, subject: Subject) -> None:
        with subject.open() as engine:
            assert list(engine.inputs) == list(subject.arrays) or set(engine.inputs) == set(subject.arrays)
            for name, spec in engine.inputs.items():
                array = subject.arrays[name]
                assert (len(spec.shape), spec.dtype) == (array.ndim, array.dtype), name
                fixed = [(size, wanted) for size, wanted in zip(array.shape, spec.shape, strict=True)]
                assert all(size == wanted for size, wanted in fixed if isinstance(wanted, int)), name
            ((name, spec),) = engine.outputs.items()
            assert name == subject.output
            assert (len(spec.shape), spec.dtype) == (subject.answer.ndim, np.float32)

    def test_a_jump_is_right(self, subject: Subject) -> None:
        start = subject.arrays["latents"]
        with subject.open() as engine:
            result = engine.infer(**subject.arrays)[subject.output]
        assert result.dtype == np.float32
        assert distance(result - start, subject.answer - start) < TOLERANCE[subject.precision]

    def test_interval_zero_keeps_every_bit(self, subject: Subject) -> None:
        """However often the result is fed back."""
        start = latents = subject.arrays["latents"]
        kept = subject.arrays["interval"] == 0
        assert kept.any() and not kept.all()
        with subject.open() as engine:
            for _ in range(2):
                latents = engine.infer(**{**subject.arrays, "latents": latents})[subject.output]
        assert latents[kept].tobytes() == start[kept].tobytes()
        assert (latents[~kept] != start[~kept]).mean() > 0.99

    def test_awkward_inputs_are_read_and_left_alone(self, subject: Subject) -> None:
        """Strided, broadcast, misaligned and read-only arrays are inputs like any other."""
        arrays = subject.arrays
        padded = np.zeros(arrays["latents"].size + 1, np.float32)
        padded[1:] = arrays["latents"].ravel()
        wide = np.zeros((*arrays["interval"].shape, 2), np.float32)
        wide[..., 0] = arrays["interval"]
        awkward = {name: np.asfortranarray(array) for name, array in arrays.items()}
        awkward["latents"] = padded[1:].reshape(arrays["latents"].shape)
        awkward["interval"] = wide[..., 0]
        awkward["interval"].flags.writeable = False
        before = {name: array.copy() for name, array in awkward.items()}
        with subject.open() as engine:
            wanted = engine.infer(**arrays)[subject.output]
            np.testing.assert_array_equal(engine.infer(**awkward)[subject.output], wanted)
        for name, array in awkward.items():
            np.testing.assert_array_equal(array, before[name])

    def test_outputs_belong_to_the_caller(self, subject: Subject) -> None:
        """Results kept, as arrays or as views, survive later calls and the engine itself, and may be written to."""
        kept, wanted = [], []
        with subject.open() as engine:
            for number in range(3):
                arrays = {**subject.arrays, "latents": subject.arrays["latents"] + number}
                result = engine.infer(**arrays)[subject.output]
                kept.append(result[:, 1:] if number % 2 else result)
                wanted.append(kept[-1].copy())
                del result
                gc.collect()
        for result, value in zip(kept, wanted, strict=True):
            np.testing.assert_array_equal(result, value)
            result[...] = 0

    def test_after_close_a_call_is_refused(self, subject: Subject) -> None:
        engine = subject.open()
        with engine as same:
            assert same is engine
        engine.close()
        with pytest.raises(EngineError, match=r"after close\(\)"):
            engine.infer(**subject.arrays)

    @pytest.mark.parametrize(("change", "message"), WRONG)
    def test_wrong_arrays_are_refused(self, subject: Subject, change: dict[str, Change], message: str) -> None:
        arrays = dict(subject.arrays)
        for name, value in change.items():
            if value is None:
                del arrays[name]
            else:
                arrays[name] = value(arrays[name]) if callable(value) else value
        with subject.open() as engine, pytest.raises(EngineError, match=message):
            engine.infer(**arrays)

    @pytest.mark.parametrize("content", [b"", b"no model", "half"])
    def test_damaged_models_are_refused(self, subject: Subject, content: bytes | str, tmp_path: Path) -> None:
        path = tmp_path / f"damaged{subject.path.suffix}"
        whole = subject.path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
        with pytest.raises(EngineError, match=rf"damaged\{subject.path.suffix}"):
            subject.open(path)
        with pytest.raises(EngineError, match="no model at"):
            subject.open(tmp_path / f"none{subject.path.suffix}")

    def test_threads_are_at_least_one(self, subject: Subject) -> None:
        with pytest.raises(EngineError, match="threads is 0"):
            subject.open(threads=0)
