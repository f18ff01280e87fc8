"""``python -m anyflow_rt.kernels``: compile kernels for GPUs that are not here, and print what they take of one."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anyflow_rt.errors import AnyflowError

TABLE_FIGURES = (
    "registers",
    "stack_bytes",
    "spills",
    "shared_bytes",
    "tensor_core",
    "accesses",
    "moved_over_minimum",
    "moved_over_source",
)
"""What the committed table holds of each kernel; the rest follows from these or is of no use in a comparison."""


def main(arguments: list[str] | None = None) -> int:
    """One JSON line a kernel on stdout; cubin, PTX and launch metadata in ``--out``. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m anyflow_rt.kernels", description=__doc__)
    parser.add_argument("--target", default="all", help="sm_80, sm_90, ... by comma; all of them unless given")
    parser.add_argument("--op", default="all", help="ops by comma; all of them unless given")
    parser.add_argument("--case", default="", help="only cases whose name holds this regular expression")
    parser.add_argument("--dtype", default="bf16", help="of activations, by comma: bf16 (unless given), fp16, fp32")
    parser.add_argument("--out", type=Path, default=None, help="where compiled kernels are kept and found again")
    parser.add_argument("--table", type=Path, default=None, help="write the figures to this file, case by case")
    options = parser.parse_args(arguments)
    table: dict[str, dict[str, dict[str, Any]]] = {}
    try:
        for line in _compiled(options):
            print(json.dumps(line), flush=True)
            figures = {name: line[name] for name in TABLE_FIGURES}
            table.setdefault(f"{line['op']}: {line['config']}", {})[line["target"]] = figures
    except AnyflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if options.table:
        rows = (
            json.dumps(case) + ": {\n  " + ",\n  ".join(f"{json.dumps(t)}: {json.dumps(f)}" for t, f in by.items())
            for case, by in table.items()
        )
        options.table.write_text("{" + "},\n".join(rows) + "}}\n", encoding="utf-8")
    return 0


def _compiled(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from anyflow_rt.kernels.figures import selected_figures

    for dtype in options.dtype.split(","):
        for figures in selected_figures(options.target, options.op, options.case, options.out, dtype.strip()):
            yield figures.to_dict()


if __name__ == "__main__":
    sys.exit(main())
