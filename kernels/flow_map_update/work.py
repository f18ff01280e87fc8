"""What the flow-map update has to move: tokens and state in, state out."""

from __future__ import annotations

from anyflow_rt.kernels.launch import Launch
from anyflow_rt.kernels.work import Stream, Work, constants_of, programs_of, stored_bytes, whole


def work(launch: Launch) -> Work:
    """Of a launch in which every frame moves."""
    sizes, tensors, programs = constants_of(launch), launch.tensors, programs_of(launch)
    lanes = sizes["BLOCK"] * sizes["PATCH"] ** 2 * sizes["PADDED_CHANNELS"]
    streams = [
        whole(name, tensors[name], lanes, stored=name.startswith("updated"))
        for name in ("tokens", "unconditional", "state", "updated", "updated_cast")
        if name in tensors
    ]
    streams += [
        Stream(name, stored_bytes(tensors[name]), 4 * programs)
        for name in ("interval", "guidance_scale")
        if name in tensors
    ]
    elements = tensors["state"].numel()
    return Work(tuple(streams), elements, operations=(5 if "unconditional" in tensors else 2) * elements)
