"""The flags of ``anyflow-rt bench kernels``; light, since every command line is parsed with them."""

from __future__ import annotations

import argparse

HELP = "kernels: what they take of a GPU, what they could reach at best, and, on a GPU, what they reach"
ROUNDS, TUNING_ROUNDS, FEWEST_ROUNDS = 50, 10, 5
ALL, JUMP = "all", "jump"
"""Of ``--op``: every op and the whole jump; the jump alone."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument(
        "--static", action="store_true", help="compile, count, compare with the committed table; needs no GPU"
    )
    parts.add_argument(
        "--roofline", action="store_true", help="floors of a jump, or of ops and cases that are named; needs no GPU"
    )
    parts.add_argument(
        "--tune", metavar="FILE.json", help="time attention's configurations on a GPU, write the fastest to FILE"
    )
    parser.add_argument("--target", default="all", metavar="sm_XX", help="targets by comma (default: all)")
    parser.add_argument("--op", default=ALL, metavar="NAME", help="ops by comma, jump for a whole one (default: all)")
    parser.add_argument(
        "--case", default="B ", metavar="REGEX", help="cases whose name holds it (default: 1.3B and 14B)"
    )
    parser.add_argument(
        "--yardstick",
        metavar="FILE.py",
        help="with --static: Triton kernels of yours beside ours; benchmarks/kernels/yardstick.py says what it defines",
    )
    parser.add_argument("--cache", metavar="DIR", help="where compiled kernels are kept and found again")
    # No default: the flag is the sweep's too, whose parser sets what this one leaves open.
    parser.add_argument("--rounds", type=int, help=f"timed launches of each op on a GPU (default {ROUNDS})")
