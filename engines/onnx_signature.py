"""Names, element types and symbolic shapes of an ONNX file's inputs and outputs, without the onnx package.

Reading a signature through onnx or onnxruntime costs more than running a small component does, so this walks the
protobuf wire format: a message is a run of (tag, value) pairs, tag = field number << 3 | wire type, and a value of
wire type 2 is a length and that many bytes. Weights are skipped by their length, not read.
https://protobuf.dev/programming-guides/encoding and the field numbers of onnx.proto3.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from anyflow_rt.engines.engine import TensorSpec
from anyflow_rt.engines.mend import mend_of
from anyflow_rt.errors import EngineError

_MODEL_GRAPH = 7
_GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 5, 11, 12
_TENSOR_NAME = 8
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR = 1
_TENSOR_ELEMENT, _TENSOR_SHAPE = 1, 2
_SHAPE_DIM = 1
_DIM_VALUE, _DIM_NAME = 1, 2
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

# TensorProto.DataType -> numpy. bfloat16 has no numpy type and travels as its bits.
_ELEMENTS = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "uint16",
}

Signature = dict[str, TensorSpec]
_Buffer = mmap.mmap | bytes


def read_signature(path: Path) -> tuple[Signature, Signature]:
    """Inputs and outputs of the ONNX file ``path``, in the graph's order. Raises EngineError where it is no ONNX."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _signature(data)
    except (OSError, ValueError, IndexError, UnicodeDecodeError, KeyError) as error:
        raise EngineError(f"{path} is not a readable ONNX file ({error}); {mend_of(path)}") from error


def _signature(data: _Buffer) -> tuple[Signature, Signature]:
    graphs = [span for field, span in _fields(data, 0, len(data)) if field == _MODEL_GRAPH]
    if len(graphs) != 1:
        raise ValueError("no graph in it")
    inputs: Signature = {}
    outputs: Signature = {}
    constants: set[str] = set()
    for field, (start, stop) in _fields(data, *graphs[0]):
        if field == _GRAPH_INPUT:
            inputs.update(_value(data, start, stop))
        elif field == _GRAPH_OUTPUT:
            outputs.update(_value(data, start, stop))
        elif field == _GRAPH_INITIALIZER:
            constants.update(_text(data, span) for part, span in _fields(data, start, stop) if part == _TENSOR_NAME)
    if twice := sorted(inputs.keys() & outputs.keys()):
        raise ValueError(f"{', '.join(twice)} would be both input and output")
    return {name: spec for name, spec in inputs.items() if name not in constants}, outputs


def _value(data: _Buffer, start: int, stop: int) -> Signature:
    """One ValueInfoProto."""
    parts = dict(_fields(data, start, stop))
    tensor = dict(_fields(data, *parts[_VALUE_TYPE]))[_TYPE_TENSOR]
    element = 0
    shape: list[int | str | None] = []
    for field, span in _fields(data, *tensor):
        if field == _TENSOR_ELEMENT:
            element = span[0]
        elif field == _TENSOR_SHAPE:
            shape = [_dimension(data, *dim) for part, dim in _fields(data, *span) if part == _SHAPE_DIM]
    return {_text(data, parts[_VALUE_NAME]): TensorSpec(tuple(shape), np.dtype(_ELEMENTS[element]))}


def _dimension(data: _Buffer, start: int, stop: int) -> int | str | None:
    for field, span in _fields(data, start, stop):
        if field == _DIM_VALUE:
            return span[0]
        if field == _DIM_NAME:
            return _text(data, span) or None
    return None


def _text(data: _Buffer, span: tuple[int, int]) -> str:
    return data[span[0] : span[1]].decode()


def _fields(data: _Buffer, start: int, stop: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """(field number, (first, past the last byte)) of a message; a varint's pair is (its value, 0)."""
    while start < stop:
        tag, start = _varint(data, start)
        kind = tag & 7
        if kind == _VARINT:
            value, start = _varint(data, start)
            yield tag >> 3, (value, 0)
            continue
        if kind == _LENGTH:
            size, start = _varint(data, start)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {start}")
        if start + size > stop:
            raise ValueError("it ends early")
        yield tag >> 3, (start, start + size)
        start += size


def _varint(data: _Buffer, start: int) -> tuple[int, int]:
    """The base-128 number at ``start``, and where it ends."""
    value = shift = 0
    while True:
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7
        if shift > 63:
            raise ValueError(f"a number without end at byte {start}")
