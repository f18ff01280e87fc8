"""What a join has to move: residual and branch in, their sum and its normalised activations out, and a few vectors."""

from __future__ import annotations

from anyflow_rt.kernels.launch import Launch
from anyflow_rt.kernels.work import Stream, Work, constants_of, programs_of, stored_bytes, whole

STORED = ("joined", "normalised")

VECTORS = {
    "gate_modulation": "GATE_ROWS",
    "gate_table": "",
    "norm_modulation": "NORM_ROWS",
    "norm_table": "",
    "gain": "",
    "bias": "",
}
"""Vector argument -> constant with the rows that its frames have; none where one vector serves all frames."""


def work(launch: Launch) -> Work:
    """Of one launch."""
    sizes, tensors, programs = constants_of(launch), launch.tensors, programs_of(launch)
    streams = [
        whole(name, tensors[name], sizes["ROWS"] * sizes["TILES"] * sizes["BLOCK"], stored=name in STORED)
        for name in ("residual", "branch", *STORED)
        if name in tensors
    ]
    for name, rows in VECTORS.items():
        if name not in tensors:
            continue
        kept = sizes[rows] if rows else tensors[name].numel() // sizes["WIDTH"]
        used = 2 if name.startswith("norm") else 1
        once = stored_bytes(tensors[name]) // kept * min(used, kept)
        streams.append(Stream(name, once, 4 * used * sizes["WIDTH"] * programs, 4 * used * sizes["BLOCK"]))
    elements = tensors["residual"].numel()
    return Work(tuple(streams), elements, operations=12 * elements)
