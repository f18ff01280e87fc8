"""``anyflow-rt bench kernels``: floors from published rates, figures of compiled code, and its word without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("triton")

import torch

from anyflow_rt.benchmarks.kernels import document
from anyflow_rt.benchmarks.kernels.gpus import GPUS, Gpu, ceiling_line, gpu_called, gpu_of
from anyflow_rt.benchmarks.kernels.measure import FLOOD_BYTES, int8_steps
from anyflow_rt.benchmarks.kernels.reference import reference_block
from anyflow_rt.benchmarks.kernels.steps import (
    KINDS,
    SHARES,
    Step,
    Total,
    block_steps,
    jump_steps,
    linear,
    op_step,
    predicted,
)
from anyflow_rt.benchmarks.kernels.table import committed, regressions, unknown
from anyflow_rt.benchmarks.kernels.text import roofline_lines
from anyflow_rt.cli.main import main
from anyflow_rt.errors import UsageError
from anyflow_rt.kernels.aot import TARGETS
from anyflow_rt.kernels.cases import shape_cases_of
from anyflow_rt.kernels.video_shapes import LARGE, SMALL, VideoShape

ROOT = Path(__file__).parents[1]

YARDSTICK = """
import torch
import triton
import triton.language as tl

from anyflow_rt.kernels.launch import Kernel, Launch
from anyflow_rt.kernels.work import Work, whole


@triton.jit
def scale_rows(source, target, ROUNDS: tl.constexpr, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)
    for step in range(ROUNDS):
        place = (tl.program_id(0) * ROUNDS + step) * BLOCK + column
        tl.store(target + place, 2 * tl.load(source + place))


def launches(target):
    if target == 80:
        return {}
    source, result = (torch.empty(64 * 1024, device="meta") for _ in range(2))
    kernel = Kernel("yardstick", scale_rows, ("programs",))
    arguments, constants = {"source": source, "target": result}, {"ROUNDS": 16, "BLOCK": 1024}
    return {"scale rows": Launch(kernel, arguments, constants, extents={"programs": 4}, warps=4)}


def work(name, launch):
    source, target = launch.tensors["source"], launch.tensors["target"]
    return Work((whole("source", source, 16 * 1024), whole("target", target, 16 * 1024, stored=True)), source.numel())
"""


def test_every_target_has_a_ceiling_and_assumptions() -> None:
    assert {gpu.target for gpu in GPUS} == set(TARGETS) == set(SHARES)
    assert all(tuple(SHARES[target]) == KINDS and all(0 < s < 1 for s in SHARES[target].values()) for target in TARGETS)
    assert (
        gpu_called("NVIDIA H200", 90).bandwidth == 4.8e12 and gpu_called("NVIDIA H100 80GB HBM3", 90).name == "H100 SXM"
    )
    assert gpu_called("NVIDIA GeForce RTX 4070", 89) is gpu_of(89)
    said = ceiling_line(gpu_of(89), "NVIDIA GeForce RTX 4070")
    assert said.startswith("ceiling: NVIDIA GeForce RTX 4070 (sm_89) by the figures of the RTX 4090: 1.01 TB/s")
    with pytest.raises(UsageError, match="no published rates for sm_75; there are some for sm_80, sm_86"):
        gpu_of(75)


CHIPS = {
    "A100 SXM 80GB": (108, 1.41e9, 1024, 2048, 64 * 1.41),
    "RTX 3090": (82, 1.695e9, 256, 1024, 128 * 1.695),
    "RTX 4090": (128, 2.52e9, 256, 1024, 128 * 2.52),
    "H100 SXM": (132, 1.83e9, 2048, 4096, 128 * 1.98),
    "H200 SXM": (132, 1.83e9, 2048, 4096, 128 * 1.98),
    "B200 (HGX)": (148, 1.86e9, 4096, 8192, 128 * 1.98),
    "RTX 5090": (170, 2.407e9, 256, 1024, 128 * 2.407),
}
"""Multiprocessors; boost clock of matrix instructions; multiply-adds a clock and multiprocessor in bf16 and in int8; in
float32, times its clock in GHz. Of the same papers as ``GPUS``."""


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_rates_are_what_the_chip_gives(gpu: Gpu) -> None:
    multiprocessors, clock, bf16, int8, float32 = CHIPS[gpu.name]
    assert gpu.bf16 == pytest.approx(2 * multiprocessors * clock * bf16, rel=5e-3)
    assert gpu.int8 == pytest.approx(2 * multiprocessors * clock * int8, rel=5e-3)
    assert gpu.float32 == pytest.approx(2e9 * multiprocessors * float32, rel=5e-3)


def test_floors() -> None:
    gpu = gpu_of(90)
    step = Step("copy", "elementwise", bytes=int(gpu.bandwidth), matrix_operations=int(gpu.bf16 / 2), count=3)
    assert step.floor(gpu) == pytest.approx(3) and step.limit(gpu) == "memory"
    assert predicted([step], gpu) == pytest.approx(3 / SHARES[90]["elementwise"])
    product = linear("product", 1 << 15, 1 << 12, 1 << 12)
    scores = op_step(SMALL, "attention", "int8 self-attention")
    assert scores.floor(gpu_of(89)) == pytest.approx(24.95e-3, rel=1e-3), "as docs/performance.md says"
    assert product.floor(gpu) == 2 * 2**15 * 2**24 / gpu.bf16 and product.limit(gpu) == "matrix units"


def test_8_bit_attention_is_timed_with_its_rounding() -> None:
    """The mean of the keys, queries, keys, attention: 0.4 ms more on an RTX 4090, as docs/performance.md says."""
    case = next(each for each in shape_cases_of("attention", SMALL) if each.name.endswith("int8 self-attention"))
    steps = int8_steps(case.arguments)
    assert [step.name for step in steps] == ["mean of the keys", "attention", "attention", "attention"]
    assert sum(step.floor(gpu_of(89)) for step in steps[:3]) == pytest.approx(0.4e-3, rel=0.05)
    assert FLOOD_BYTES >= 1 << 30


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=lambda shape: shape.name)
def test_a_jump(shape: VideoShape) -> None:
    """Operations by the formula of a transformer, launches as many as the plan of the denoiser has."""
    total = Total.of(jump_steps(shape))
    length, width = shape.length, shape.width
    block = 2 * length * width * (6 * width + 2 * shape.ffn) + 4 * width * length * (length + shape.text)
    patches = 2 * 2 * length * width * 64
    assert total.matrix_operations == shape.layers * block + patches
    assert Total.of(block_steps(shape)).launches == 14 and total.launches == 14 * shape.layers + 6
    lines = list(roofline_lines(gpu_of(89), shape.name, jump_steps(shape)))
    assert lines[0] == ceiling_line(gpu_of(89)), "the ceiling comes first"
    assert "floor of the jump" in lines[-1]


def test_the_reference_does_more_launches_and_moves_more() -> None:
    """Its products and attention are ours but for the prompt; what is between them is not."""
    ours, theirs = block_steps(SMALL), reference_block(SMALL)
    assert sum(step.kind == "attention" for step in theirs) == 2
    assert sum(step.kind == "matmul" for step in theirs) == 10
    prompt = 2 * 2 * 512 * SMALL.width**2 + 4 * SMALL.length * SMALL.width * (512 - SMALL.text)
    assert Total.of(theirs).matrix_operations == Total.of(ours).matrix_operations + prompt
    assert Total.of(theirs).launches == 80 and Total.of(theirs).bytes > 4.5 * Total.of(ours).bytes


def test_the_document_says_what_the_code_says() -> None:
    """``python -m anyflow_rt.benchmarks.kernels docs/performance.md`` writes its tables."""
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert document.written(text) == text
    with pytest.raises(UsageError, match="the document has no lines"):
        document.written("nothing")


def test_roofline_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "kernels", "--roofline", "--target", "sm_90,sm_120", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert captured.out.count("\n") == 1 and captured.err.startswith(
        "ceiling: sm_90 by the figures of the H100 SXM: 3.35 TB/s, 989 TFLOP/s"
    )
    assert {(line["target"], line["config"]) for line in found} >= {("sm_120", SMALL.name), ("sm_90", LARGE.name)}
    assert all(line["jump_floor_seconds"] < line["jump_predicted_seconds"] for line in found)


def test_roofline_of_what_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "kernels", "--roofline", "--target", "sm_90", "--json"]
    assert main([*arguments, "--op", "flow_map_update,qk_norm_rope", "--case", "14B.*(plain|halves)"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(line["gpu"]["name"], line["name"]) for line in found[:2]] == [
        ("H100 SXM", "flow_map_update: 14B 480x832x81 plain"),
        ("H100 SXM", "qk_norm_rope: 14B 480x832x81 halves"),
    ]
    assert found[1]["floor_seconds"] == pytest.approx(0.406e-3, rel=2e-3), "as docs/performance.md says"
    assert main([*arguments, "--case", "14B"]) == 0
    assert {line["config"] for line in json.loads(capsys.readouterr().out)} == {LARGE.name}, "jumps of that shape"
    assert main([*arguments, "--op", "jump,attention", "--case", "1.3B.*81"]) == 0
    named = [line.get("config", line.get("name")) for line in json.loads(capsys.readouterr().out)]
    assert named[:4] == [SMALL.name] * 2 + [f"attention: {SMALL.name} self-attention"] + named[3:4], "H100 and H200"
    assert main([*arguments, "--op", "jump", "--case", "shapes"]) == 0
    assert {line["config"] for line in json.loads(capsys.readouterr().out)} == {"shapes 64x64x17"}
    assert main([*arguments, "--case", "15B"]) == 2
    assert "no case of all has a name that holds '15B'; there are 1.3B" in capsys.readouterr().err


def test_what_is_worse_than_the_committed_table_is_named() -> None:
    case, targets = next(iter(committed().items()))
    line = {"op": case.split(": ")[0], "config": case.split(": ")[1], "target": "sm_89", **targets["sm_89"]}
    assert regressions(line) == []
    more = {**line, "spills": 1, "registers": line["registers"] + 9}
    assert regressions(more) == [
        f"{case} on sm_89: spills 1, was 0",
        f"{case} on sm_89: registers {line['registers'] + 9}, was {line['registers']}",
    ]
    assert regressions({**more, "config": "another"}) == []
    narrow = {**line, "accesses": {4: 1 + line["accesses"].get("4", 0), 16: 3}}
    assert regressions(narrow) == [f"{case} on sm_89: 2 accesses of less than 16 bytes a thread, were 1"]
    scores = "attention: 1.3B 480x832x81 self-attention"
    known = committed()[scores]["sm_89"]
    attention = {"op": "attention", "config": scores.split(": ")[1], "target": "sm_89", **known, "tensor_core": 100}
    assert regressions(attention) == [f"{scores} on sm_89: 100 matrix instructions, were {known['tensor_core']}"]


def test_a_case_that_the_table_should_have_and_has_not_is_named() -> None:
    line = {"op": "attention", "config": "1.3B 480x832x81 self-attention", "target": "sm_89"}
    assert unknown(line) == [] and unknown({**line, "config": "shapes 64x64x17 plain"}) == []
    for changed in ({"config": "1.3B another"}, {"target": "sm_130"}, {"op": "softmax"}):
        (said,) = unknown({**line, **changed})
        assert "not in the table; write it again with  python -m anyflow_rt.kernels" in said


def test_static_figures_that_are_worse_end_in_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = {"op": "flow_map_update", "config": "1.3B 480x832x81 plain", "target": "sm_89"}
    line |= committed()["flow_map_update: 1.3B 480x832x81 plain"]["sm_89"] | {"spills": 3}
    figures = SimpleNamespace(to_dict=lambda: line)
    monkeypatch.setattr("anyflow_rt.kernels.figures.selected_figures", lambda *arguments: [figures])
    monkeypatch.setattr("anyflow_rt.benchmarks.kernels.text.static_line", lambda figures: "line")
    assert main(["bench", "kernels", "--static"]) == 1
    said = capsys.readouterr().err
    assert "worse than the committed table: flow_map_update: 1.3B 480x832x81 plain on sm_89: spills 3, was 0" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--tune", "measured.json"], ["--op", "jump"]):
        assert main(["bench", "kernels", *arguments]) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "--static and --roofline need none" in said


def test_what_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments, message in (
        (["--yardstick", "x.py"], "--yardstick is compiled, not run: it goes with --static"),
        (["--static", "--target", "sm_1"], "unknown target 'sm_1'"),
        (["--static", "--op", "softmax"], "unknown op 'softmax'"),
        (["--static", "--case", "("], "--case '(' is no regular expression"),
        (["--static", "--case", "nothing"], "no case of all has a name that holds 'nothing'"),
        (["--static", "--op", "jump"], "--op jump: a jump is timed or given a floor, not compiled: leave out --static"),
        (["--static", "--op", "attention,jump"], "not compiled: leave out --static"),
        (["--op", "softmax"], "unknown op 'softmax'"),
        (["--op", "jump", "--case", "15B"], "no jump's video has a name that holds '15B'; there are 1.3B"),
        (["--roofline", "--op", "jump", "--case", "self-attention"], "no jump's video has a name that holds"),
        (["--roofline", "--target", "sm_1"], "unknown target 'sm_1'"),
        (["--rounds", "-3"], "--rounds is -3; give at least 5"),
        (["--tune", "x.json", "--rounds", "4"], "--rounds is 4; give at least 5"),
        (["--tune", str(tmp_path)], "is a folder; give a file in it"),
        (["--static", "--cache", "/proc/x"], "--cache /proc/x cannot be made"),
        (["--static", "--yardstick", str(tmp_path / "missing.py")], "is no Python file; give one that defines"),
        (["--roofline", "--static"], "not allowed with argument"),
    ):
        try:
            code = main(["bench", "kernels", *arguments])
        except SystemExit as left:
            code = int(left.code or 0)
        said = capsys.readouterr().err
        assert code == 2 and message in said, arguments
        assert "regs  spill B" not in said and "ceiling" not in said, "nothing was begun"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no function launches(target)"),
        ("def launches(:", "the file failed with SyntaxError"),
        ("1 / 0", "the file failed with ZeroDivisionError: division by zero; mend the file"),
        ("def launches(target): return 3", "launches(80) gave a int; give a dict of Launch by name"),
        ("def launches(target): return {'a': 3}", "launches(80)['a'] is a int; give a Launch"),
        ("def launches(target): raise KeyError(target)", "launches(80) failed with KeyError: 80"),
    ],
)
def test_a_yardstick_that_is_wrong(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "wrong.py").write_text(text)
    arguments = ["bench", "kernels", "--static", "--target", "sm_80", "--yardstick", str(tmp_path / "wrong.py")]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_static_figures_beside_a_yardstick(tmp_path: Path) -> None:
    """In a process of its own: kernels of this one may be interpreted."""
    (tmp_path / "yardstick.py").write_text(YARDSTICK)
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    options = ["--static", "--json", "--target", "sm_80,sm_89", "--op", "flow_map_update", "--case", "shapes.*plain"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "anyflow_rt",
            "bench",
            "kernels",
            *options,
            "--yardstick",
            str(tmp_path / "yardstick.py"),
        ],
        env=kept,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and done.stdout.count("\n") == 1, done.stderr
    theirs, *ours = json.loads(done.stdout)
    assert theirs["op"] == "yardstick" and theirs["config"] == "scale rows" and theirs["target"] == "sm_89"
    assert theirs["yardstick"] and theirs["bytes_per_element"] == theirs["minimum_per_element"] == 8
    assert theirs["moved_over_source"] == 1 and theirs["wide_share"] == 1 and theirs["tensor_core_share"] == 0
    assert [(line["op"], line["target"]) for line in ours] == [
        ("flow_map_update", "sm_80"),
        ("flow_map_update", "sm_89"),
    ]
    for line in ours:
        assert line["spill_bytes"] == 0 and line["registers"] > 0 and 0 < line["occupancy"] <= 1
        assert line["config"] == "shapes 64x64x17 plain" and line["bytes_moved"] >= line["bytes_minimum"]
    assert "scale rows" in done.stderr and "op: case" in done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_times_on_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--op", "flow_map_update,attention", "--case", "shapes", "--rounds", "5", "--json"]
    assert main(["bench", "kernels", *arguments]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert captured.err.startswith("ceiling: ")
    assert {"ours", "PyTorch"} <= {line["who"] for line in found}
    assert all(len(line["seconds"]) == 5 and line["share_of_floor"] > 0 for line in found)
    assert all(line["parity"]["error"] <= line["parity"]["allowed"] for line in found if line["who"] == "ours")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_whole_jump_on_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "kernels", "--op", "jump", "--case", "shapes", "--rounds", "5", "--json"]) == 0
    captured = capsys.readouterr()
    (line,) = json.loads(captured.out)
    assert (line["op"], line["config"], line["who"]) == ("jump", "shapes 64x64x17", "ours")
    assert line["parity"]["error"] <= line["parity"]["allowed"] and line["floor"] < line["median"]
    assert "predicted" in captured.err and "times the prediction, which is" in captured.err
