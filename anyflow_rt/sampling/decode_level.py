"""What is expected of the decoder: what it took last, unless the jumps have changed their speed since.

Where other work holds one of two cores, a jump may take what it always takes and the decoder, which has more to share
out, half as much again. So what jumps take says little of it, until they change by more than that.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from anyflow_rt.sampling.moments import FAST_UP_TO, SLOW_FROM

Value = TypeVar("Value", float, np.ndarray)


def decode_level(last: Value, last_level: Value, level: Value) -> Value:
    """Seconds expected of decoding where a jump is expected to take ``level``, after one that took ``last`` where a
    jump was expected to take ``last_level``."""
    change = level / last_level
    return last * np.maximum(change / SLOW_FROM, 1.0) * np.minimum(change / FAST_UP_TO, 1.0)
