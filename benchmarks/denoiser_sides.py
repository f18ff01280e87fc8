"""One jump of a denoiser alone, through our engines and through diffusers, behind the same two calls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from anyflow_rt.benchmarks.peers import DTYPES
from anyflow_rt.components import COMPUTE_TYPE_PORTS
from anyflow_rt.engines import geometry, registry
from anyflow_rt.engines.architecture import Architecture
from anyflow_rt.engines.engine import Engine
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.usual_shapes import usual_shapes

T, R = 1.0, 0.0
"""The jump: all the way, so that the velocity is z_t - z_r."""
MAX_SEQUENCE_LENGTH = 512
COMPONENTS = ("conditioner", "time_embedder", "denoiser")


@dataclass(frozen=True)
class Inputs:
    """latents (1, F, C, h, w) and prompt embeddings (1, S, text_dim), float32."""

    latents: np.ndarray
    embeds: np.ndarray


def random_inputs(architecture: Architecture, size: VideoSize, prompt_tokens: int, seed: int) -> Inputs:
    """Normal latents and embeddings."""
    generator = np.random.default_rng(seed)
    latent, width = geometry.latent_size(architecture, size), architecture.transformer.text_dim
    shape = (1, latent.frames, latent.channels, latent.height, latent.width)
    return Inputs(
        generator.standard_normal(shape, np.float32), generator.standard_normal((1, prompt_tokens, width), np.float32)
    )


class Side(Protocol):
    """``prepare`` does what depends on the prompt alone, ``jump`` the rest."""

    def prepare(self, inputs: Inputs) -> Any: ...

    def jump(self, prepared: Any) -> np.ndarray:
        """The velocity (1, F, C, h, w) float32."""
        ...


class OurSide:
    """Our graphs on the default engine. ``graphs`` holds ``<component>.onnx`` of the three components."""

    def __init__(self, architecture: Architecture, graphs: Path, precision: str, size: VideoSize) -> None:
        transformer, latent = architecture.transformer, geometry.latent_size(architecture, size)
        self._scale = architecture.scheduler.num_train_timesteps
        self._frames = latent.frames
        self._rope = geometry.rope_tables(transformer, geometry.token_grid(transformer, latent))
        engine, shapes = registry.default_engine(), usual_shapes(architecture, size)
        self._engines: dict[str, Engine] = {
            name: registry.open_engine(
                engine,
                graphs / f"{name}.onnx",
                precision="fp32" if name == "time_embedder" else precision,
                compute_type=COMPUTE_TYPE_PORTS,
                usual_shapes=shapes.get(name, ()),
            )
            for name in COMPONENTS
        }

    def prepare(self, inputs: Inputs) -> dict[str, Any]:
        """Cross-attention keys and values, once a prompt."""
        bias = geometry.pad_bias(MAX_SEQUENCE_LENGTH, inputs.embeds.shape[1], 1)
        out = self._engines["conditioner"].infer(prompt_embeds=inputs.embeds, pad_bias=bias)
        return {"latents": inputs.latents, **out}

    def jump(self, prepared: dict[str, Any]) -> np.ndarray:
        """Time embedder, denoiser and update, as ``sampling.executor`` calls them, engines made for this size."""
        t, r = (np.full((1, 1), self._scale * value, np.float32) for value in (T, R))
        embedded = {
            name: np.repeat(value, self._frames, axis=1)
            for name, value in self._engines["time_embedder"].infer(t=t, r=r).items()
        }
        out = self._engines["denoiser"].infer(
            **prepared,
            **embedded,
            interval=np.full((1, self._frames), T - R, np.float32),
            rope_cos=self._rope[0],
            rope_sin=self._rope[1],
        )
        return prepared["latents"] - out["z_r"]

    def close(self) -> None:
        """Release the engines."""
        for engine in self._engines.values():
            engine.close()


class DiffusersSide:
    """``AnyFlowTransformer3DModel`` as its pipeline calls it: the prompt padded with zeros to 512 positions."""

    def __init__(self, checkpoint: Path, precision: str, *, compiled: bool) -> None:
        import torch
        from diffusers import AnyFlowTransformer3DModel

        self._dtype = getattr(torch, DTYPES[precision])
        model: Any = AnyFlowTransformer3DModel.from_pretrained(checkpoint / "transformer", torch_dtype=self._dtype)
        self._model = torch.compile(model.eval()) if compiled else model.eval()

    def prepare(self, inputs: Inputs) -> dict[str, Any]:
        """The arguments of the model: its text projection is part of every step."""
        import torch

        latents, embeds = torch.from_numpy(inputs.latents), torch.from_numpy(inputs.embeds)
        padded = torch.nn.functional.pad(embeds, (0, 0, 0, MAX_SEQUENCE_LENGTH - embeds.shape[1]))
        frames = latents.shape[1]
        return {
            "hidden_states": latents.to(self._dtype),
            "timestep": torch.full((1, frames), 1000 * T),
            "r_timestep": torch.full((1, frames), 1000 * R),
            "encoder_hidden_states": padded.to(self._dtype),
        }

    def jump(self, prepared: dict[str, Any]) -> np.ndarray:
        """The model alone; its scheduler's update is left out."""
        import torch

        with torch.no_grad():
            return self._model(**prepared, return_dict=False)[0].float().numpy()
