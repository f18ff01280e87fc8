"""``python -m anyflow_rt.benchmarks.results IN OUT --score NAME``: a results file with one score of every video."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from anyflow_rt.benchmarks.results.file import read_results, write_results
from anyflow_rt.benchmarks.results.series import only_score
from anyflow_rt.errors import AnyflowError


def main(arguments: Sequence[str] | None = None) -> int:
    """Read, trim, write; 0 done, otherwise the error's exit code."""
    parser = argparse.ArgumentParser(prog="python -m anyflow_rt.benchmarks.results", description=__doc__)
    parser.add_argument("source", metavar="IN", help="a results.json, or the report directory that holds one")
    parser.add_argument("target", metavar="OUT")
    parser.add_argument("--score", required=True, metavar="NAME", help="such as shapes.right")
    options = parser.parse_args(arguments)
    try:
        write_results(only_score(read_results(options.source), options.score), options.target)
    except AnyflowError as error:
        print(f"results: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
