"""A TensorRT engine on a GPU: deserialised once, inputs and outputs by address, a jump replayed as a CUDA graph.

Not yet run on a GPU: ``tests/gpu`` holds what has to be seen there, ``docs/gpu.md`` how to run it.

Arrays come as numpy arrays or as torch tensors on the GPU. What only passes from one call to another stays there: the
keys and values of a prompt and of earlier chunks, the caches of a decoder, and the state, whose z_r of one jump *is*
z_t of the next (``buffers``). Each way between two sets of addresses is a graph of its own.

Prompts are padded up to the next length that the engine has a profile for; keys of the surplus get a bias that weighs
nothing. Decoder and encoder are built for one latent frame a call and take several one after another.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from anyflow_rt.engines.arrays import to_host
from anyflow_rt.engines.engine import Engine, TensorSpec
from anyflow_rt.engines.geometry import NO_PADDING_BIAS
from anyflow_rt.engines.stages import runs_beside
from anyflow_rt.engines.tensorrt.device import PROMPT_AXES, Execution
from anyflow_rt.engines.tensorrt.memory import BESIDE, MAIN, naming_mends, require_cuda
from anyflow_rt.engines.tensorrt.mending import engine_mend
from anyflow_rt.engines.tensorrt.messages import make_logger, summary
from anyflow_rt.engines.tensorrt.package import ENTERPRISE, RTX, import_package
from anyflow_rt.engines.tensorrt.refit import refit
from anyflow_rt.engines.tensorrt.requirements import require_runnable
from anyflow_rt.engines.tensorrt.residency import expected_working
from anyflow_rt.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor

STAYING = ("z_r", "context_bias", "tokens")
"""Outputs that stay on the GPU beside those of the compute type: what jumps and a cache's writer read."""

STREAMED = {"vae_decoder_next": ("latents", "frames"), "vae_encoder_next": ("frames", "latents")}
"""Components that are called piece by piece, behind caches: what they take and what they make."""


class TensorRtEngine(Engine):
    """One component. ``options.precision`` has to be that which the engine was built for."""

    name: ClassVar[str] = RTX

    def _load(self) -> None:
        facts = require_runnable(self.name, self.model_path)
        trt = import_package(self.name)
        require_cuda()
        self._trt, self._logger = trt, make_logger(trt)
        self._all_keys = facts.settings["cross_keys"] == "all"
        self._runtime = trt.Runtime(self._logger)
        if facts.settings["version_compatible"]:
            # Such an engine brings code of its own for the processor, which TensorRT runs only where it may.
            self._runtime.engine_host_code_allowed = True
        with self.model_path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
            self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            said = summary(self._logger.errors)
            raise EngineError(f"{self.model_path} cannot be loaded ({said}); {engine_mend(self.model_path)}")
        with naming_mends(self._label, self.model_path):
            if facts.settings["strip"]:
                refit(trt, self._engine, self._logger, self.model_path, facts)
            self._execution = Execution(
                trt,
                self._engine,
                self.model_path,
                self._logger,
                residency=self.options.residency,
                lane=BESIDE if runs_beside(self.model_path.stem, facts.components) else MAIN,
                expected=expected_working(facts, self.model_path.stem, self.options.residency),
                runtime_cache=self._runtime_cache(),
            )

    def _runtime_cache(self) -> Path | None:
        """The file of what RTX compiles on the GPU, outside the bundle, whose files never change. Engines of one
        component for other targets, precisions and sizes have theirs."""
        folder, cache = self.model_path.parent, self.options.cache_dir
        return None if cache is None else cache / f"{folder.parent.name}-{folder.name}-{self.model_path.stem}.runtime"

    def _describe(self) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
        inputs, outputs = self._execution.signature()
        bias = TensorSpec((None, None), np.dtype(np.float32))
        # The contract's names, also where an engine that attends to all keys has no use for them.
        if self._all_keys and self.model_path.stem == "conditioner":
            return {**inputs, "pad_bias": bias}, {**outputs, "context_bias": bias}
        return ({**inputs, "context_bias": bias} if self._all_keys and "cross_key" in inputs else inputs), outputs

    def _infer(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        with naming_mends(self._label, self.model_path):
            return self._computed(arrays)

    def _computed(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        given = {name: array for name, array in arrays.items() if name in self._execution.inputs}
        if (flow := STREAMED.get(self.model_path.stem)) is not None:
            return self._streamed(given, *flow)
        length = next((given[name].shape[axis] for name, axis in PROMPT_AXES.items() if name in given), 0)
        profile = self._execution.profile_for(PROMPT_AXES, given)
        padded = {name: self._padded(name, array, profile) for name, array in given.items()}
        found = self._execution.run(padded, profile)
        return self._results(found, arrays, length)

    def _results(self, found: dict[str, Tensor], arrays: Mapping[str, Any], length: int) -> dict[str, Any]:
        if "cross_key" in found:
            found |= self._biases(found, arrays, length)
        if "prompt_embeds" in found:
            found["prompt_embeds"] = found["prompt_embeds"][:, :length]
        return {name: value if self._stays(name) else to_host(value) for name, value in found.items()}

    def _stays(self, name: str) -> bool:
        return name in STAYING or self._in_compute_type(name)

    def _biases(self, found: dict[str, Tensor], arrays: Mapping[str, Any], length: int) -> dict[str, Tensor]:
        """The biases of the prompt's keys: those of the surplus that filled it up to a profile weigh nothing."""
        import torch

        if not self._all_keys:
            bias = found["context_bias"].clone()
            bias[:, length : bias.shape[1] - arrays["pad_bias"].shape[1]] = NO_PADDING_BIAS
            return {"context_bias": bias}
        keys = found["cross_key"].shape[3]
        padding = int(np.rint(np.exp(np.asarray(arrays["pad_bias"], np.float64)[0]).sum()))
        if length + padding != keys:
            raise EngineError(
                f"{self._label} attends to all of {keys} keys, and max_sequence_length {length + padding} was asked "
                f"for; ask for {keys}, or build without --cross-keys all"
            )
        return {"context_bias": torch.zeros(found["cross_key"].shape[1], keys, device="cuda")}

    def _streamed(self, given: Mapping[str, Any], taken: str, made: str) -> dict[str, Any]:
        """Piece after piece of ``taken``, each as long as the engine is built for: each hands its caches to the next.

        Raises EngineError where something would be left over.
        """
        whole, caches = given[taken], {name: array for name, array in given.items() if name != taken}
        each, length = self._execution.shape_of(taken, 0)[1], whole.shape[1]
        if length % each:
            raise EngineError(f"{self._label}: {taken} has {length} frames and it takes {each} at a time")
        parts = []
        for start in range(0, length, each):
            found = self._execution.run({taken: whole[:, start : start + each], **caches}, 0)
            parts.append(to_host(found.pop(made)))
            caches = {name.removeprefix("next_"): value for name, value in found.items()}
        return {made: np.concatenate(parts, axis=1), **{f"next_{name}": value for name, value in caches.items()}}

    def _padded(self, name: str, array: Any, profile: int) -> Any:
        axis = PROMPT_AXES.get(name)
        if axis is None or array.shape[axis] == (wanted := self._execution.shape_of(name, profile)[axis]):
            return array
        return self._execution.padded(name, array, axis, wanted, NO_PADDING_BIAS if name == "context_bias" else 0)

    def _release(self) -> None:
        self._execution.close()
        del self._execution, self._engine, self._runtime


class TensorRtEnterpriseEngine(TensorRtEngine):
    """The same, through the enterprise package."""

    name: ClassVar[str] = ENTERPRISE
