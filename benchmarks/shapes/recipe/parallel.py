"""Several training processes on one machine, one thread each, that average their gradients.

The networks are so small that two threads of one process train only 1.4 times as fast as one. Processes share a batch
instead, started by torch's launcher; without it there is one process, and nothing here does anything:

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m anyflow_rt.benchmarks.shapes.recipe STAGE
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def processes() -> int:
    """How many train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this is; 0 alone writes checkpoints and logs."""
    return int(os.environ.get("RANK", "0"))


def join() -> None:
    """Meet the other processes. To be called once, before the first `average`."""
    if processes() > 1:
        from torch import distributed

        distributed.init_process_group("gloo")


def average_gradients(parameters: Sequence[torch.Tensor]) -> None:
    """Replace every gradient by its mean over the processes; one message. One that a process has not counts as 0."""
    if processes() > 1:
        import torch
        from torch import distributed

        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= processes()
        for gradient, mean in zip(gradients, flat.split([each.numel() for each in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def average(value: float) -> float:
    """The mean of a number over the processes, so that all decide alike."""
    if processes() == 1:
        return value
    import torch
    from torch import distributed

    shared = torch.tensor(value, dtype=torch.float64)
    distributed.all_reduce(shared)
    return float(shared) / processes()
