"""``python -m anyflow_rt.benchmarks.budget``: the simulated sweep."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from anyflow_rt.benchmarks.budget.sweep import CASES, run_case
from anyflow_rt.benchmarks.budget.tables import as_json, table
from anyflow_rt.errors import AnyflowError
from anyflow_rt.sampling.calibration import read_calibration
from anyflow_rt.sampling.quality import fit_quality


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every case; 0 done, 1 failed, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m anyflow_rt.benchmarks.budget", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="of each case (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="plan with this calibration.json's quality")
    parser.add_argument("--bundle-id", default="", help="of that calibration")
    parser.add_argument("--non-uniform", action="store_true", help="also uneven divisions, which runs do not use")
    parser.add_argument("--json", action="store_true", help="one line on stdout, the table on stderr")
    options = parser.parse_args(arguments)
    if options.requests < 1:
        parser.error(f"--requests is {options.requests}; give at least 1")
    if options.seed < 0:
        parser.error(f"--seed is {options.seed}; give at least 0")
    stream = sys.stderr if options.json else sys.stdout
    outcomes = []
    try:
        given = None if options.calibration is None else read_calibration(options.calibration, options.bundle_id)
        quality = fit_quality(given)
        if quality.note:
            print(quality.note, file=stream)
        for case in CASES:
            outcomes.append(
                run_case(case, quality, requests=options.requests, seed=options.seed, non_uniform=options.non_uniform)
            )
            print(table(outcomes[-1:]), file=stream, flush=True)
    except AnyflowError as error:
        print(f"budget: {error}", file=sys.stderr)
        return error.exit_code
    if options.json:
        print(json.dumps(as_json(outcomes), separators=(",", ":")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
