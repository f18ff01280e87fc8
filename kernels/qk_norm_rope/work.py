"""What normalising queries and keys has to move: both in, both out, gains and angles. The value is not touched."""

from __future__ import annotations

from anyflow_rt.kernels.launch import Launch
from anyflow_rt.kernels.work import Stream, Work, constants_of, programs_of, stored_bytes, whole


def work(launch: Launch) -> Work:
    """Of one launch."""
    sizes, tensors, programs = constants_of(launch), launch.tensors, programs_of(launch)
    outputs: list[str] = [name for name in ("query", "key") if name in tensors]
    row = 2 * sizes["HEAD_BLOCK"] * sizes["HALF_BLOCK"]
    # As many keys as queries, of however large a cache.
    written = [whole(name, tensors["query"], sizes["TOKENS"] * row, stored=True) for name in outputs]
    read = sum(stream.once for stream in written)
    streams = [Stream("packed", read, read, sum(stream.lanes for stream in written)), *written]
    for name in outputs:
        gain = tensors[f"{name}_gain"]
        streams.append(Stream(f"{name}_gain", stored_bytes(gain), stored_bytes(gain) * programs, 4 * row))
    for name in ("rope_cos", "rope_sin"):
        if name in tensors:
            # Every head of a token turns by the same angles: its threads ask for them once each.
            once = stored_bytes(tensors[name])
            streams.append(Stream(name, once, once * launch.grid[1], 4 * sizes["TOKENS"] * row // 2))
    elements = len(outputs) * tensors["query"].numel()
    return Work(tuple(streams), elements, operations=10 * elements)
