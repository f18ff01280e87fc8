"""``python -m anyflow_rt.benchmarks.kernels FILE.md``: write the tables of the GPU predictions into that document."""

import sys
from pathlib import Path

from anyflow_rt.benchmarks.kernels.document import write

if len(sys.argv) != 2:
    sys.exit(f"{sys.argv[0]}: give the document, docs/performance.md")
write(Path(sys.argv[1]))
