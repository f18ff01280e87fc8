"""``python -m anyflow_rt.benchmarks [NAME ...]``: what ``make bench`` runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from anyflow_rt.benchmarks.measure import Conditions
from anyflow_rt.benchmarks.suite import BENCHMARKS, DEFAULT, GROUPS, run_benchmarks, write_results
from anyflow_rt.errors import AnyflowError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m anyflow_rt.benchmarks", description="Measure this machine.")
    made.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join((*BENCHMARKS, *GROUPS))} (default: {', '.join(DEFAULT)})"
    )
    made.add_argument(
        "--repetitions", type=int, default=Conditions.rounds, help="rounds of each comparison (default: %(default)s)"
    )
    made.add_argument(
        "--allow-busy", action="store_true", help="measure beside other processes; the figures are marked as not valid"
    )
    made.add_argument("--out", type=Path, metavar="FILE", help="write every value to this JSON file")
    made.add_argument("--json", action="store_true", help="print the same as one line on stdout, all else on stderr")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 done (targets met or not), 1 failed or refused, 2 wrong usage."""
    options = parser().parse_args(arguments)
    stream = sys.stderr if options.json else sys.stdout
    try:
        conditions = Conditions(
            rounds=options.repetitions,
            allow_busy=options.allow_busy,
            say=lambda line: print(line, file=stream, flush=True),
        )
        found = run_benchmarks(options.names, conditions)
        if options.out is not None:
            write_results(found, options.out)
    except AnyflowError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("benchmarks: interrupted; nothing was written", file=sys.stderr)
        return 130
    if options.json:
        print(json.dumps(found, separators=(",", ":")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
