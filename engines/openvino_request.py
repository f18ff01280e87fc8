"""Calls of a model compiled by OpenVINO, on memory that is used again."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from anyflow_rt.engines.openvino_package import import_openvino


class InferenceRequest:
    """One compiled model and the buffers of its calls. One thread at a time."""

    def __init__(
        self,
        compiled: Any,
        inputs: Iterable[str],
        outputs: Iterable[str],
        after_first_of_a_shape: Callable[[], None] = lambda: None,
    ) -> None:
        """``inputs`` and ``outputs`` name the model's, in the order that ``infer`` takes and gives them.

        ``after_first_of_a_shape`` is called after every call whose input shapes were not met before.
        """
        self._openvino = import_openvino()
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._input_ports = [_port(compiled.inputs, name) for name in inputs]
        self._output_ports = [_port(compiled.outputs, name) for name in outputs]
        self._blank_outputs = [self._request.get_tensor(port) for port in self._output_ports]
        self._output_shapes: dict[tuple[tuple[int, ...], ...], list[tuple[int, ...]]] = {}
        self._spare: list[list[Any]] = [[] for _ in self._blank_outputs]
        self._after_first_of_a_shape = after_first_of_a_shape

    def infer(self, arrays: Sequence[Any]) -> list[np.ndarray]:
        """Run once. Results belong to the caller, as the contract of ``Engine`` says. Raises RuntimeError."""
        contiguous = [np.asarray(array, order="C") for array in arrays]
        for port, array in zip(self._input_ports, contiguous, strict=True):
            self._request.set_tensor(port, self._shared(array, port.element_type))
        key = tuple(array.shape for array in contiguous)
        shapes = self._output_shapes.get(key)
        outputs = self._blank_outputs if shapes is None else [self._take(i, shape) for i, shape in enumerate(shapes)]
        for port, tensor in zip(self._output_ports, outputs, strict=True):
            self._request.set_tensor(port, tensor)
        self._request.infer(share_outputs=True)
        if shapes is not None:
            return [self._lend(index, tensor) for index, tensor in enumerate(outputs)]
        # What these input shapes lead to is known from now on; this once the results are in the request's memory.
        self._output_shapes[key] = [tuple(tensor.shape) for tensor in outputs]
        results = [tensor.data.copy() for tensor in outputs]
        self._after_first_of_a_shape()
        return results

    def shrink(self) -> None:
        """Give back the memory of intermediate results; the next call takes as much as it needs."""
        self._compiled.release_memory()

    def _shared(self, array: np.ndarray, element_type: Any) -> Any:
        """``array`` as OpenVINO sees it, in place, read-only arrays too. ``array`` must outlive the call."""
        return self._openvino.Tensor(array, self._openvino.Shape(array.shape), element_type)

    def _take(self, index: int, shape: tuple[int, ...]) -> Any:
        """Memory for output ``index``: some that has come back, or new."""
        spare = self._spare[index]
        while spare:
            tensor = spare.pop()
            if tuple(tensor.shape) == shape:
                return tensor
        return self._openvino.Tensor(self._output_ports[index].element_type, self._openvino.Shape(shape))

    def _lend(self, index: int, tensor: Any) -> np.ndarray:
        """``tensor``'s array. Once nothing refers to it or a view of it, ``tensor`` is spare again."""
        array: np.ndarray = tensor.data
        weakref.finalize(array, self._spare[index].append, tensor).atexit = False
        return array


def _port(ports: Any, name: str) -> Any:
    return next(port for port in ports if name in port.names)
