"""anyflow-rt: makes video from AnyFlow checkpoints at any number of steps.

import anyflow_rt

with anyflow_rt.load() as runtime:
    runtime.generate("a red circle moving right", steps=4).save("out.mp4")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anyflow_rt.loading import load
    from anyflow_rt.result import Result
    from anyflow_rt.runtime import Runtime

__version__ = "0.1.0"
__all__ = ["Result", "Runtime", "__version__", "load"]

_PLACES = {"load": "anyflow_rt.loading", "Runtime": "anyflow_rt.runtime", "Result": "anyflow_rt.result"}


def __getattr__(name: str) -> Any:
    """Import the public names when they are asked for: ``anyflow-rt --version`` needs none of them."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_PLACES[name]), name)
