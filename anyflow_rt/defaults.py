"""The video a checkpoint makes where nobody says otherwise."""

from __future__ import annotations

from anyflow_rt.engines.checkpoint import Checkpoint
from anyflow_rt.engines.checkpoint_file import read_json
from anyflow_rt.engines.checkpoint_parts import OWN_FILE, SHARED
from anyflow_rt.engines.manifest import Defaults
from anyflow_rt.errors import CheckpointError

WAN_VIDEO = Defaults(num_frames=81, height=480, width=832, fps=16)
"""What the released checkpoints were trained at. No configuration file of the diffusers layout says."""


def default_video(checkpoint: Checkpoint) -> Defaults:
    """What the checkpoint's ``anyflow_rt.json`` says (where it has one), then Wan's size.

    The file holds any of num_frames, height, width, fps, beside ``shared`` (``checkpoint_parts``). Raises
    CheckpointError where it holds anything else.
    """
    return Defaults(**vars(WAN_VIDEO) | _stated(checkpoint))


def _stated(checkpoint: Checkpoint) -> dict[str, float]:
    path = checkpoint.path / OWN_FILE
    if not path.is_file():
        return {}
    values = {name: value for name, value in read_json(path).items() if name != SHARED}
    if not set(values) <= set(vars(WAN_VIDEO)):
        raise CheckpointError(f"{path} may hold only {', '.join((*vars(WAN_VIDEO), SHARED))}; mend or remove it")
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise CheckpointError(f"{path} says {name} is {value!r}; give a positive number")
    return values
