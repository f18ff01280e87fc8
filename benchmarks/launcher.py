"""Runs the command it is given and says on stderr, as one line of JSON, how long that took and its peak memory.

A script of its own, standard library only, so that it stays small: see ``processes.run_command``.
"""

import json
import os
import subprocess
import sys
import time


def main() -> int:
    """Exit with the command's own code."""
    start = time.perf_counter()
    process = subprocess.Popen(sys.argv[1:])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    unit = 1 if sys.platform == "darwin" else 1024
    print(json.dumps({"seconds": seconds, "peak": usage.ru_maxrss * unit}), file=sys.stderr)
    return os.waitstatus_to_exitcode(status) & 0xFF


if __name__ == "__main__":
    sys.exit(main())
