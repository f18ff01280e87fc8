"""What the benchmarks count, compare and refuse. Their figures are measured by ``make bench``, not here."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from anyflow_rt.benchmarks import __main__ as command
from anyflow_rt.benchmarks import measure, suite
from anyflow_rt.benchmarks.denoiser import SIZE, TOKENS, TRANSFORMER, denoiser_operations
from anyflow_rt.benchmarks.measure import BusyMachineError, Conditions, Sample, Watch, alternate, interleave, ratios
from anyflow_rt.benchmarks.report import Outcome, Target, results
from anyflow_rt.engines.architecture import TransformerConfig
from anyflow_rt.engines.checkpoint_shapes import transformer_tensors
from anyflow_rt.errors import OutputError, UsageError

SMALL = TransformerConfig(
    num_attention_heads=2, attention_head_dim=16, num_layers=2, ffn_dim=40, text_dim=24, freq_dim=16
)


@pytest.fixture
def only_benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Conditions], object]], None]:
    """Put a function in the place of all benchmarks, under the name ``fake``."""

    def install(run: Callable[[Conditions], object]) -> None:
        module = ModuleType("fake_benchmark")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(suite, "BENCHMARKS", {"fake": module.__name__})

    return install


def test_a_ratio_is_taken_round_by_round() -> None:
    """The machine slowed down threefold in the second round, for both sides."""
    found = ratios("slow / fast", Sample("slow", (4.0, 12.0, 4.4)), Sample("fast", (2.0, 6.0, 2.0)))
    assert found.values == pytest.approx((2.0, 2.0, 2.2))
    assert found.median == pytest.approx(2.0)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        ratios("", Sample("", (1.0, 2.0)), Sample("", (1.0,)))


def test_every_contender_runs_once_a_round_and_the_order_rotates() -> None:
    calls: list[tuple[int, str]] = []
    contenders = {name: lambda number, name=name: calls.append((number, name)) for name in "abc"}
    samples = alternate(contenders, 3)
    assert [len(sample.values) for sample in samples.values()] == [3, 3, 3]
    assert calls == [(0, "a"), (0, "b"), (0, "c"), (1, "b"), (1, "c"), (1, "a"), (2, "c"), (2, "a"), (2, "b")]


def test_answers_stay_with_their_round() -> None:
    assert interleave({"a": lambda n: n, "b": lambda n: -n}, 3) == {"a": [0, 1, 2], "b": [0, -1, -2]}


def test_other_processes_are_seen_and_our_own_work_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, own = iter((100.0, 103.0)), iter((10.0, 12.0))
    monkeypatch.setattr(measure, "_machine_seconds", lambda: next(machine))
    monkeypatch.setattr(measure, "_own_seconds", lambda: next(own))
    clock = iter((50.0, 52.0))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    assert Watch().other_cores() == pytest.approx(0.5)


def test_a_child_counts_as_our_own_work() -> None:
    """Children that have been waited for are ours: their seconds are not somebody else's."""
    before = measure._own_seconds()
    subprocess.run([sys.executable, "-c", "sum(i * i for i in range(3_000_000))"], check=True)
    assert measure._own_seconds() - before > 0.05


def test_a_busy_machine_is_refused(
    only_benchmark, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "WATCH_SECONDS", 0.0)
    monkeypatch.setattr(Watch, "other_cores", lambda self: 1.25)
    with pytest.raises(BusyMachineError, match=r"use 1\.25 of a core.*--allow-busy"):
        Conditions().quiet()
    with pytest.raises(BusyMachineError):
        Conditions().still_quiet(Watch())
    assert Conditions(allow_busy=True).still_quiet(Watch()) == 1.25
    only_benchmark(Conditions.quiet)
    assert command.main(["fake"]) == 1
    assert "--allow-busy" in capsys.readouterr().err


def test_figures_of_a_busy_machine_are_marked() -> None:
    target = Target("faster", 5.0, 4.0, at_least=True)
    quiet = Outcome("speed", (Sample("ours", (0.1,)),), targets=(target,), other_cores=0.1)
    busy = Outcome("speed", (Sample("ours", (0.1,)),), targets=(target,), other_cores=0.9)
    assert quiet.valid
    assert not busy.valid
    assert not busy.to_dict()["valid"]
    assert "BUSY" in busy.lines()[0]
    assert "not valid" in busy.lines()[-1]
    assert "BUSY" not in "".join(quiet.lines())


@pytest.mark.parametrize(("value", "at_least", "met"), [(4.0, True, True), (3.9, True, False), (4.1, False, False)])
def test_targets(value: float, at_least: bool, met: bool) -> None:
    target = Target("figure", value, 4.0, at_least=at_least)
    assert target.met is met
    assert str(target).endswith(": met" if met else ": NOT MET")


def test_results_hold_every_value_and_what_they_were_measured_on() -> None:
    found = json.loads(json.dumps(results([Outcome("speed", (Sample("ours", (0.25, 0.75)),))])))
    assert found["benchmarks"][0]["samples"] == [{"name": "ours", "unit": "s", "median": 0.5, "values": [0.25, 0.75]}]
    assert found["machine"]["cores"] >= 1
    assert {"python", "numpy", "openvino"} <= set(found["versions"])


def test_json_is_one_line_and_the_file_holds_the_same(
    only_benchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = Outcome("fake", (Sample("ours", (1.0, 2.0), "MB"),))
    only_benchmark(lambda conditions: outcome)
    assert command.main(["fake", "--json", "--out", str(tmp_path / "results.json")]) == 0
    captured = capsys.readouterr()
    (line,) = captured.out.splitlines()
    assert json.loads(line) == json.loads((tmp_path / "results.json").read_text())
    assert "ours  1.5 MB (1 to 2, n 2)" in captured.err
    with pytest.raises(OutputError, match="--out"):
        suite.write_results({}, tmp_path / "missing" / "results.json")


def test_wrong_usage_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["fast"]) == 2
    assert "'fast'; the benchmarks are speed, denoiser" in capsys.readouterr().err
    with pytest.raises(UsageError, match="at least 5"):
        Conditions(rounds=4)
    assert Conditions(rounds=1, allow_busy=True).rounds == 1


def test_operations_of_a_jump_are_those_torch_counts() -> None:
    """torch's own counter over our module. It knows attention only where that is made of plain products."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from anyflow_rt.engines.export.transformer import Denoiser

    config, frames, height, width, keys = SMALL, 3, 4, 6, 7
    weights = {name: torch.zeros(shape) for name, shape in transformer_tensors(config).required.items()}
    tokens, half = frames * height * width // 4, config.attention_head_dim // 2
    cross = torch.zeros(config.num_layers, 1, config.num_attention_heads, keys, config.attention_head_dim)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        Denoiser(config, weights)(
            torch.zeros(1, frames, config.in_channels, height, width),
            torch.zeros(1, frames, 6, config.inner_dim),
            torch.zeros(1, frames, config.inner_dim),
            torch.zeros(1, frames),
            cross,
            cross,
            torch.zeros(1, keys),
            torch.zeros(tokens, half),
            torch.zeros(tokens, half),
        )
    assert denoiser_operations(config, tokens, keys) == counter.get_total_flops()


def test_the_denoiser_is_of_the_size_it_says() -> None:
    shapes = transformer_tensors(TransformerConfig(**TRANSFORMER)).required.values()  # type: ignore[arg-type]
    assert sum(math.prod(shape) for shape in shapes) == pytest.approx(214e6, rel=0.01)
    frames, rows, columns = (SIZE.num_frames - 1) // 4 + 1, SIZE.height // 16, SIZE.width // 16
    assert frames * rows * columns == TOKENS == 1280
