"""Weights that are computed when they are written: a module is traced over memory that nobody touches.

A checkpoint's tensors are views of mapped files and cost nothing; what is made of them (fused, permuted, widened) would
be a copy of the whole network. So while a module is built, operations on large tensors are noted instead of done:

1. An operation whose result has ``LEAST_SIZE`` numbers or more gives memory that was asked for and never written, which
   the system has not provided yet, and its recipe is kept. Shapes come from the same operation without storage.
2. Smaller results, and views of tensors that are there, are computed as ever.
3. Once the module is a graph, each such weight becomes one that follows its recipe whenever it is read: when it is
   written, after which it is let go. The most that is in memory is what one of them takes.
4. A transposed weight becomes a weight of its own, as the exporter's optimiser would make it, at once and of them all.

Tracing reads no weight. A graph that has not every one of them as it is would hold what was never written: an error, as
is a module with weights that it does not use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

from anyflow_rt.engines.weights import Weights

LEAST_SIZE = 1 << 16
"""Numbers of a result from which on it is noted. The exporter's optimiser computes no constants of that size."""


@dataclass(frozen=True)
class _Recipe:
    """``place``: the memory that stands for the result, kept so that no other tensor gets its address."""

    place: Tensor
    operation: Callable[..., Tensor]
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]


class Unseen(Mapping[str, Tensor]):
    """``weights``, read as if in no mode: what safetensors does to map a tensor is none of a module's operations."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def __getitem__(self, name: str) -> Tensor:
        with _disable_current_modes():
            return self._weights[name]

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


class Deferred(TorchDispatchMode):
    """The mode in which a module is built. Its results are known by their addresses, as parameters keep those."""

    def __init__(self) -> None:
        super().__init__()
        self._recipes: dict[int, _Recipe] = {}

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        tensors = [value for value in tree_leaves((args, given)) if isinstance(value, Tensor)]
        waiting = any(self.is_deferred(tensor) for tensor in tensors)
        aliases = [result.alias_info for result in func._schema.returns if result.alias_info is not None]
        if not tensors or any(tensor.is_meta for tensor in tensors) or (aliases and not waiting):
            return func(*args, **given)
        sizes, named = tree_map_only(Tensor, lambda tensor: torch.empty_like(tensor, device="meta"), (args, given))
        made = func(*sizes, **named)
        if isinstance(made, Tensor) and made.numel() < LEAST_SIZE:
            return func(*self._computed(args), **self._computed(given))
        if not isinstance(made, Tensor) or any(alias.is_write for alias in aliases):
            raise NotImplementedError(f"{func} of a weight; build modules with operations that give one new tensor")
        place = torch.empty_strided(made.shape, made.stride(), dtype=made.dtype)
        self._recipes[place.data_ptr()] = _Recipe(place, func, args, given)
        return place

    def is_deferred(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` stands for one that is computed later."""
        return not tensor.is_meta and tensor.data_ptr() in self._recipes

    def compute(self, tensor: Tensor) -> Tensor:
        """What ``tensor`` stands for; a tensor that is there, as it is."""
        if not self.is_deferred(tensor):
            return tensor
        recipe = self._recipes[tensor.data_ptr()]
        return recipe.operation(*self._computed(recipe.arguments), **self._computed(recipe.keywords))

    def fill(self, module: nn.Module, graph: ir.Graph) -> None:
        """Let ``graph``, traced from ``module`` and not optimised yet, compute its deferred weights when they are read.

        Raises AssertionError where one of them is not a weight of the graph as it is.
        """
        wanted = {weight.data_ptr() for weight in module.parameters() if self.is_deferred(weight)}
        found = {}
        for value in list(graph.initializers.values()):
            raw = getattr(value.const_value, "raw", None)
            if isinstance(raw, Tensor) and self.is_deferred(raw):
                found[raw.data_ptr()] = value
                value.const_value = self._lazy(raw, value)
                for node, _ in list(value.uses()):
                    if node.op_type == "Transpose":
                        self._transpose(graph, node, value, raw)
        assert set(found) == wanted, f"{len(wanted - set(found))} weights are not in the graph as they are"

    def _transpose(self, graph: ir.Graph, node: ir.Node, weight: ir.Value, place: Tensor) -> None:
        """Let what reads ``node``, the transposition of a deferred ``weight``, read a weight."""
        order, output = tuple(node.attributes["perm"].as_ints()), node.outputs[0]
        shape = ir.Shape([place.shape[axis] for axis in order])
        made = ir.Value(name=output.name, shape=shape, type=weight.type)
        made.const_value = self._lazy(place, made, lambda tensor: tensor.permute(order))
        output.replace_all_uses_with(made)
        graph.remove(node, safe=True)
        graph.register_initializer(made)

    def _lazy(
        self, place: Tensor, value: ir.Value, change: Callable[[Tensor], Tensor] = lambda tensor: tensor
    ) -> ir.LazyTensor:
        assert value.dtype is not None and value.shape is not None

        def make() -> ir.TensorProtocol:
            with torch.no_grad():
                return TorchTensor(change(self.compute(place)).contiguous(), value.name)

        return ir.LazyTensor(make, value.dtype, value.shape, name=value.name)

    def _computed(self, values: Any) -> Any:
        return tree_map_only(Tensor, self.compute, values)
