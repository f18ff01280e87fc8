"""Runs the command it is given and says on stderr, as one line of JSON, how long that took and its peak memory.

``peak`` is of all that was resident, mapped files too, as the system counts it; ``anonymous`` of what no file backs,
looked up ten times a second, 0 where the system does not say.

A script of its own, standard library only, so that it stays small: see ``processes.run_command``.
"""

import json
import os
import subprocess
import sys
import threading
import time

INTERVAL = 0.1


class Anonymous(threading.Thread):
    """Looks on while the process ``pid`` runs."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.path = f"/proc/{pid}/status"
        self.most = 0

    def run(self):
        while True:
            try:
                with open(self.path, encoding="ascii") as file:
                    found = [line.split() for line in file if line.startswith("RssAnon:")]
            except OSError:
                return
            self.most = max([self.most, *(1024 * int(words[1]) for words in found)])
            time.sleep(INTERVAL)


def main() -> int:
    """Exit with the command's own code."""
    start = time.perf_counter()
    process = subprocess.Popen(sys.argv[1:])
    anonymous = Anonymous(process.pid)
    anonymous.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    unit = 1 if sys.platform == "darwin" else 1024
    found = {"seconds": seconds, "peak": usage.ru_maxrss * unit, "anonymous": anonymous.most}
    print(json.dumps(found), file=sys.stderr)
    return os.waitstatus_to_exitcode(status) & 0xFF


if __name__ == "__main__":
    sys.exit(main())
