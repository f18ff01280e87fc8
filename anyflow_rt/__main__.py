"""``python -m anyflow_rt``."""

import os
import sys

# Run from a checkout, the working directory would come first on sys.path, and its kernels/ folder would shadow the
# package of that name which transformers imports.
if sys.path and sys.path[0] in ("", os.getcwd()):
    sys.path.pop(0)

from anyflow_rt.cli.main import entry

entry()
