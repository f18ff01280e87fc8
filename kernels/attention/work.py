"""What attention has to move and to multiply. Keys and values are asked for once a block of queries."""

from __future__ import annotations

from torch import Tensor

from anyflow_rt.kernels.grid import cdiv
from anyflow_rt.kernels.launch import Launch
from anyflow_rt.kernels.work import Stream, Work, constants_of, programs_of, stored_bytes, whole


def work(launch: Launch) -> Work:
    """Of one launch in which every query sees every key: of a causal one, the newest chunk's."""
    if "scales" in launch.tensors:
        return _quantising(launch)
    sizes, tensors, programs = constants_of(launch), launch.tensors, programs_of(launch)
    query, key, value = (tensors[name] for name in ("query", "key", "value"))
    batch, heads, query_length, head_dim = query.shape
    key_length = key.shape[2]
    padded = sizes["MAIN"] + sizes["TAIL"]
    rows = cdiv(key_length, sizes["KEYS"]) * sizes["KEYS"]

    def keys(name: str, tensor: Tensor) -> Stream:
        asked = programs * key_length * head_dim * tensor.element_size()
        return Stream(name, stored_bytes(tensor), asked, rows * padded * tensor.element_size(), inner=True)

    streams = [
        *(Stream(name, stored_bytes(tensors[name]), stored_bytes(tensors[name])) for name in ("query", "output")),
        keys("key", key),
        keys("value", value),
    ]
    rounded = "query_scale" in tensors
    if rounded:
        own = stored_bytes(tensors["query_scale"])
        blocks = 4 * programs * cdiv(key_length, sizes["KEYS"])
        streams.append(Stream("query_scale", own, own))
        streams.append(Stream("key_scale", stored_bytes(tensors["key_scale"]), blocks))
    if "key_bias" in tensors:
        streams.append(Stream("key_bias", stored_bytes(tensors["key_bias"]), 4 * programs * key_length))
    if "blocks" in tensors:
        streams.append(Stream("blocks", stored_bytes(tensors["blocks"]), 12 * programs))
    scores = batch * heads * query_length * key_length
    whole_blocks = key_length // sizes["KEYS"]
    return Work(
        tuple(streams),
        query.numel(),
        matrix_operations=(2 if rounded else 4) * scores * head_dim,
        int8_operations=(2 if rounded else 0) * scores * head_dim,
        operations=8 * scores,
        trips=(whole_blocks, cdiv(key_length, sizes["KEYS"]) - whole_blocks),
    )


def _quantising(launch: Launch) -> Work:
    """Of making queries or keys int8."""
    sizes, tensors, programs = constants_of(launch), launch.tensors, programs_of(launch)
    lanes = sizes["ROWS"] * sizes["BLOCK"]
    scales = stored_bytes(tensors["scales"])
    streams = [
        whole("x", tensors["x"], lanes),
        whole("values", tensors["values"], lanes, stored=True),
        Stream("scales", scales, scales, stored=True),
    ]
    if "mean" in tensors:
        streams.append(Stream("mean", stored_bytes(tensors["mean"]), 4 * sizes["HEAD_DIM"] * programs))
    return Work(tuple(streams), tensors["x"].numel(), operations=5 * tensors["x"].numel())
