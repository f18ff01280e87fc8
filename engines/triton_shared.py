"""The causal denoiser's weights, once in a process: the cache writer runs over the same blocks.

Of a causal checkpoint ``denoiser.safetensors`` has them, and ``cache_writer.safetensors`` beside it only its header.
Whichever engine opens first loads them; they are let go of with the last that has them.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import torch

from anyflow_rt.engines.export.transformer_causal import CausalDenoiser
from anyflow_rt.engines.torch_pack import load_graph, read_packed
from anyflow_rt.engines.triton_modules import TritonDenoiser
from anyflow_rt.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import MutableMapping

DENOISER = "denoiser.safetensors"
ATTENTION = "triton"
"""The one attention that a cache has."""

_OPEN: MutableMapping[tuple[Path, str], TritonDenoiser] = WeakValueDictionary()
_LOADING = threading.Lock()


def shared_denoiser(folder: Path, device: torch.device, attention: str, variable: str) -> TritonDenoiser:
    """The denoiser of ``folder`` on ``device``. attention: what the environment ``variable`` names.

    Raises UsageError for another than ``ATTENTION``, EngineError where the file is missing or damaged.
    """
    if attention != ATTENTION:
        raise UsageError(
            f"{variable} is {attention!r}, and a causal checkpoint's attention, which reads its cache where it is, is "
            f"{ATTENTION!r} alone; unset it"
        )
    path = folder / DENOISER
    key = path.resolve(), str(device)
    with _LOADING:
        found = _OPEN.get(key)
        if found is None:
            module = load_graph(read_packed(path), path, device).module
            assert isinstance(module, CausalDenoiser)
            found = _OPEN[key] = TritonDenoiser(module.denoiser, attention)
    return found
