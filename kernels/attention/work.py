"""What attention has to move and to multiply. Keys and values are asked for once a block of queries."""

from __future__ import annotations

from torch import Tensor

from anyflow_rt.kernels.grid import cdiv
from anyflow_rt.kernels.launch import Launch
from anyflow_rt.kernels.work import Stream, Work, constants_of, programs_of, stored_bytes, whole


def work(launch: Launch) -> Work:
    """Of one launch in which every query sees every key: of a causal one, the newest chunk's, with a full cache."""
    if "scales" in launch.tensors:
        return _quantising(launch)
    sizes, tensors, programs = constants_of(launch), launch.tensors, programs_of(launch)
    query, key, value = (tensors[name] for name in ("query", "key", "value"))
    batch, heads, query_length, head_dim = query.shape
    key_length = key.shape[2]
    padded = sizes["MAIN"] + sizes["TAIL"]

    def keys(name: str, tensor: Tensor) -> Stream:
        length = tensor.shape[2]
        rows = cdiv(length, sizes["KEYS"]) * sizes["KEYS"]
        asked = programs * length * head_dim * tensor.element_size()
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
    past_length = 0
    if "past_key" in tensors:
        past_length = tensors["past_key"].shape[2]
        streams += [keys("past_key", tensors["past_key"]), keys("past_value", tensors["past_value"])]
        streams.append(Stream("past_counts", stored_bytes(tensors["past_counts"]), 8 * programs))
    if "key_bias" in tensors:
        streams.append(Stream("key_bias", stored_bytes(tensors["key_bias"]), 4 * programs * key_length))
    if "blocks" in tensors:
        streams.append(Stream("blocks", stored_bytes(tensors["blocks"]), 12 * programs))
    scores = batch * heads * query_length * (past_length + key_length)
    lengths = [*([past_length] if "past_key" in tensors else []), key_length]
    return Work(
        tuple(streams),
        query.numel(),
        matrix_operations=(2 if rounded else 4) * scores * head_dim,
        int8_operations=(2 if rounded else 0) * scores * head_dim,
        operations=8 * scores,
        trips=tuple(trips for length in lengths for trips in _trips(length, sizes["KEYS"])),
    )


def _trips(length: int, block: int) -> tuple[int, int]:
    """Full blocks of keys, and whether one is left."""
    return length // block, cdiv(length, block) - length // block


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
