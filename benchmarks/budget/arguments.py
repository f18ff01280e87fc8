"""The flags of ``anyflow-rt bench budget``; light, since every command line is parsed with them."""

from __future__ import annotations

import argparse
from typing import Any

HELP = "how well latency budgets are kept, against every fixed number of steps and perfect foresight"
REAL_REQUESTS, SIMULATED_REQUESTS = 1000, 100_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags. ``--bundle``, ``--engine``, ``--precision`` and ``--report`` may be the caller's already."""
    known = {flag for action in parser._actions for flag in action.option_strings}
    flags: dict[str, dict[str, Any]] = {
        "--bundle": {"metavar": "DIR", "help": "(default: the shapes checkpoint's)"},
        "--engine": {"help": "openvino or onnxruntime (default: the fastest here)"},
        "--precision": {"help": "fp32 or bf16 (default: bf16 where the processor has it)"},
        "--report": {"metavar": "DIR", "help": "write budget.json and charts there (default: nowhere)"},
        "--simulated": {"action": "store_true", "help": "a simulated machine on a virtual clock"},
        "--requests": {
            "type": int,
            "metavar": "N",
            "help": f"of each case (default {REAL_REQUESTS}; {SIMULATED_REQUESTS} simulated)",
        },
        "--seed": {"type": int, "default": 0, "help": "of arrivals, budgets and bursts (default 0)"},
        "--allow-busy": {
            "action": "store_true",
            "help": "measure beside other processes; the figures are marked as not valid",
        },
    }
    for flag, options in flags.items():
        if flag not in known:
            parser.add_argument(flag, **options)
