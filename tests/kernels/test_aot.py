"""Every op compiles for every target without a GPU, into the same bytes each time, with arguments that fit its entry.

Compilations run in processes of their own, because kernels of this one are interpreted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.kernels import KERNEL

from anyflow_rt.benchmarks.kernels.table import committed, regressions
from anyflow_rt.errors import EngineError, OutputError, UsageError
from anyflow_rt.kernels.aot import PTX_VERSIONS, TARGETS, CompiledKernel, compile_launch, load_kernel, targets_of
from anyflow_rt.kernels.cases import OPS, cases_of
from anyflow_rt.kernels.entry import Parameter, check_entry, entry_widths
from anyflow_rt.kernels.grid import evaluate
from anyflow_rt.kernels.package import INTERPRETED

ONE_OF_EACH_OP = "1.3B [0-9x]+ (plain|after the FFN|halves|self-attention)$"


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *arguments], env={**kept, **variables}, capture_output=True, text=True, timeout=600
    )


def compiled(folder: Path, *options: str) -> list[dict[str, Any]]:
    done = python("-m", "anyflow_rt.kernels", "--out", str(folder), *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(folder: Path, lines: list[dict[str, Any]]) -> None:
    for line in lines:
        check_files(load_kernel(folder / f"{line['file']}.json"), int(line["target"].removeprefix("sm_")))
        check_figures(line)


def test_every_op_compiles_for_every_target(tmp_path: Path) -> None:
    lines = compiled(tmp_path, "--case", ONE_OF_EACH_OP)
    assert [(line["op"], line["target"]) for line in lines] == [(op, f"sm_{n}") for op in OPS for n in TARGETS]
    check(tmp_path, lines)


def test_every_op_compiles_for_every_type(tmp_path: Path) -> None:
    """bfloat16 is above; the other types, with the variants of attention and its other head sizes in bfloat16."""
    case = ONE_OF_EACH_OP + "|^heads of 64"
    lines = compiled(tmp_path, "--target", "sm_89", "--dtype", "fp16,fp32", "--case", case)
    assert [line["op"] for line in lines] == [*OPS, "attention"] * 2
    assert {line["config"].split()[-1] for line in lines[:5]} == {"fp16"}
    assert load_kernel(tmp_path / f"{lines[0]['file']}.json").parameters[0].type == "*fp16"
    check(tmp_path, lines)
    variants = "1.3B.* (cast|cross-attention|chunk-causal|.* a cache|int8 keys|int8 self-attention)$|heads of (80|96)"
    ops = "flow_map_update,qk_norm_rope,attention"
    lines = compiled(tmp_path, "--target", "sm_89", "--op", ops, "--case", variants)
    assert [line["config"] for line in lines[-4:]] == [
        *("heads of 80", "heads of 96"),
        *("int8 heads of 80", "int8 heads of 96"),
    ]
    assert len(lines) == 11
    check(tmp_path, lines)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_every_case_compiles(target: int, tmp_path: Path) -> None:
    """Too much for every day; ``bench kernels --static`` compiles the 1.3B and 14B cases likewise."""
    lines = compiled(tmp_path / "16", "--target", f"sm_{target}")
    assert len(lines) == sum(len(cases_of(op)) for op in OPS)
    check(tmp_path / "16", lines)
    lines = compiled(tmp_path, "--target", f"sm_{target}", "--dtype", "fp16,fp32", "--case", ONE_OF_EACH_OP)
    assert len(lines) == 2 * len(OPS)
    check(tmp_path, lines)


def check_files(kernel: CompiledKernel, target: int) -> None:
    """What was written can be read, and says of the kernel what its PTX says."""
    assert kernel.target == target and kernel.cubin.startswith(b"\x7fELF")
    version = PTX_VERSIONS[target]
    assert f".version {version // 10}.{version % 10}\n" in kernel.ptx
    assert f".target sm_{target}" in kernel.ptx and f".reqntid {32 * kernel.warps}" in kernel.ptx
    check_entry(kernel.ptx, kernel.name, kernel.parameters)
    assert ".loc" not in kernel.ptx and ".py" not in kernel.ptx, "paths differ from machine to machine"
    scalars = [parameter.name for parameter in kernel.parameters if not parameter.type.startswith("*")]
    values = {**dict.fromkeys((*scalars, *kernel.extents), 64), **kernel.constants}
    assert all(evaluate(formula, values) > 0 for formula in kernel.grid)


def check_figures(line: dict[str, Any]) -> None:
    """Nothing spills, what is elementwise moves 16 bytes a thread, and no figure is worse than the committed one."""
    assert line["spills"] == 0 and line["stack_bytes"] == 0, line
    wide, all_accesses = line["accesses"].get("16", 0) + line["accesses"].get("32", 0), sum(line["accesses"].values())
    if "int8 keys" in line["config"]:
        assert wide > 0 and line["tensor_core"] == 0
    elif line["op"] == "attention":
        assert (line["tensor_core"] > 0) != line["config"].endswith("fp32"), line
    elif line["op"] == "flow_map_update":
        assert all_accesses - wide <= 2, "the interval and the guidance scale are single numbers"
    elif "shapes" not in line["config"]:
        assert wide == all_accesses, line
    assert regressions(line) == [], "update the table if this is meant"


def test_the_committed_table_is_whole_and_without_spills() -> None:
    """``python -m anyflow_rt.kernels --case '1.3B|14B' --table benchmarks/kernels/resources.json`` writes it."""
    wanted = {f"{op}: {case.name}" for op in OPS for case in cases_of(op) if "B " in case.name}
    assert set(committed()) == wanted
    for case, targets in committed().items():
        assert list(targets) == [f"sm_{target}" for target in TARGETS]
        assert all(figures["spills"] == figures["stack_bytes"] == 0 for figures in targets.values()), case


def test_the_same_source_gives_the_same_bytes_and_is_compiled_once(tmp_path: Path) -> None:
    options = ("--target", "sm_80", "--op", "flow_map_update", "--case", "shapes.*plain")
    (first,), (second,) = compiled(tmp_path / "a", *options), compiled(tmp_path / "b", *options)
    assert first == second
    for suffix in (".cubin", ".ptx", ".json"):
        name = first["file"] + suffix
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}
    assert len(written) == 3 and compiled(tmp_path / "a", *options) == [first]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()} == written
    (tmp_path / "a" / f"{first['file']}.json").write_text("{}")
    assert compiled(tmp_path / "a", *options) == [first], "a damaged entry is made again"
    assert load_kernel(tmp_path / "a" / f"{first['file']}.json").target == 80


def test_a_place_that_takes_no_kernels_is_named() -> None:
    with pytest.raises(OutputError, match=r"/proc/x cannot take a compiled kernel .*; free some of it or give another"):
        KERNEL.save(Path("/proc/x"))


def test_saved_kernels_are_read_back(tmp_path: Path) -> None:
    KERNEL.save(tmp_path)
    assert load_kernel(tmp_path / f"{KERNEL.stem}.json") == KERNEL
    (tmp_path / f"{KERNEL.stem}.cubin").write_bytes(b"other")
    with pytest.raises(EngineError, match=r"flow_map_update-sm_89-0+\.cubin or its PTX has changed"):
        load_kernel(tmp_path / f"{KERNEL.stem}.json")
    with pytest.raises(EngineError, match="cannot be read as a compiled kernel"):
        load_kernel(tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace('"warps": 4', '"warps": 8'), "has changed since it was compiled; compile it again"),
        (lambda text: text.replace('"sha256"', '"sha"'), "has changed since it was compiled"),
        (lambda text: text.replace('"schema": 2', '"schema": 1'), "is of another schema than 2; compile it again"),
        (lambda text: text[: len(text) // 2], "cannot be read as a compiled kernel"),
        (lambda text: "[1]", "cannot be read as a compiled kernel"),
        (lambda text: "{}", "is of another schema"),
        (lambda text: "7", "cannot be read as a compiled kernel"),
        (lambda text: "", "cannot be read as a compiled kernel"),
    ],
)
def test_damaged_metadata_is_one_clear_error(damage: Callable[[str], str], message: str, tmp_path: Path) -> None:
    KERNEL.save(tmp_path)
    path = tmp_path / f"{KERNEL.stem}.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(EngineError, match=message):
        load_kernel(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(EngineError, match="cannot be read as a compiled kernel"):
        load_kernel(path)


@pytest.mark.parametrize(
    "parameters",
    [
        (Parameter("tokens", "*bf16"),),
        (Parameter("rows", "i32"), Parameter("tokens", "*bf16")),
        (Parameter("tokens", "*bf16"), Parameter("rows", "i64")),
        (Parameter("tokens", "*bf16"), Parameter("rows", "i32"), Parameter("bias", "*fp32")),
    ],
)
def test_an_entry_that_takes_other_arguments_is_refused(parameters: tuple[Parameter, ...]) -> None:
    assert entry_widths(KERNEL.ptx, "_kernel") == [(64, True), (32, False), (64, True), (64, True)]
    check_entry(KERNEL.ptx, "_kernel", KERNEL.parameters)
    with pytest.raises(EngineError, match="'_kernel' takes 4 parameters"):
        check_entry(KERNEL.ptx, "_kernel", parameters)
    with pytest.raises(EngineError, match="no entry 'other'"):
        check_entry(KERNEL.ptx, "other", parameters)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("rows / 2", "holds 'rows / 2'"),
        ("columns", "needs 'columns', which is None"),
        ("cdiv(rows)", "holds 'cdiv"),
        ("open('file')", "holds .open"),
        (")", "cannot be read"),
    ],
)
def test_grid_formulas(formula: str, message: str) -> None:
    values = {"rows": 7, "BLOCK": 2}
    assert evaluate("cdiv(rows, BLOCK * 2) + 3 * (rows - 1) // 2", values) == 2 + 9
    with pytest.raises(EngineError, match=message):
        evaluate(formula, values)


def test_refusals() -> None:
    assert targets_of("sm_80, sm_120") == (80, 120)
    with pytest.raises(UsageError, match="unknown target 'sm_70'; the targets are sm_80, sm_86"):
        targets_of("sm_80,sm_70")
    with pytest.raises(UsageError, match="unknown op 'softmax'; the ops are flow_map_update"):
        cases_of("softmax")
    case = cases_of("flow_map_update")[0]
    launch = case.plan(**case.arguments, target=89)
    with pytest.raises(UsageError, match="no kernels for target sm_75; the targets are sm_80"):
        compile_launch(launch, 75)
    if INTERPRETED:
        with pytest.raises(EngineError, match="kernels are interpreted; unset TRITON_INTERPRET"):
            compile_launch(launch, 89)


def test_the_command_says_what_is_wrong() -> None:
    done = python("-m", "anyflow_rt.kernels", "--target", "sm_1")
    assert done.returncode == 2 and done.stderr.startswith("error: unknown target 'sm_1'; the targets are")


def test_without_triton_the_pip_line_is_named() -> None:
    code = "import sys; sys.modules['triton'] = None; import anyflow_rt.kernels.launch"
    done = python("-c", code)
    assert "MissingPackageError" in done.stderr and "pip install 'anyflow-rt[triton]'" in done.stderr


def test_a_mode_that_comes_too_late_is_refused() -> None:
    code = "import os, triton; os.environ['TRITON_INTERPRET'] = '1'; import anyflow_rt.kernels.launch"
    done = python("-c", code)
    assert "set or unset it before Python starts" in done.stderr


def test_every_case_fits_its_checks() -> None:
    """Plans of every case, for every target: grids that a GPU takes, and nothing that needs storage."""
    for op in OPS:
        for case in cases_of(op, torch.float16):
            for target in TARGETS:
                grid = case.plan(**case.arguments, target=target).grid
                assert all(count > 0 for count in grid) and all(count < 65536 for count in grid[1:])
