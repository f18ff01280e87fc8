"""Weights that are computed when they are written: the same files, and never more than one of them in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from support.bundles import random_bundle

from anyflow_rt.engines.checkpoint import load_checkpoint
from anyflow_rt.engines.export import deferred
from anyflow_rt.engines.export.components import COMPONENTS, export_component
from anyflow_rt.engines.export.deferred import Deferred, Unseen

COMPONENTS_TRIED = {"text_encoder": ("base", 1), "conditioner": ("base", 1), "cache_writer": ("released_rule", 200)}
"""The checkpoint they are of, and from which number on weights are deferred: the writer's last block has no use for its
query's gain, and would be refused with that among them."""


def weights_of(path: Path) -> list[np.ndarray]:
    return [numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer]


@pytest.mark.parametrize("component", COMPONENTS_TRIED)
def test_files_are_what_they_would_be(component: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a checkpoint whose weights are all small: none is deferred, or almost every one."""
    name, few = COMPONENTS_TRIED[component]
    checkpoint = load_checkpoint(str(random_bundle(name).checkpoint))
    network, files = COMPONENTS[component].network, []
    for least in (deferred.LEAST_SIZE, few):
        monkeypatch.setattr(deferred, "LEAST_SIZE", least)
        files.append(tmp_path / f"{least}.onnx")
        export_component(component, checkpoint.architecture, checkpoint.weights(network), files[-1])
    plain, streamed = ([(node.op_type, len(node.input)) for node in onnx.load(file).graph.node] for file in files)
    assert streamed == plain
    wanted, got = (sorted((one.shape, str(one.dtype), one.tobytes()) for one in weights_of(file)) for file in files)
    assert got == wanted


def test_nothing_is_in_memory_until_it_is_computed() -> None:
    part = torch.arange(1 << 20, dtype=torch.int16).view(1024, 1024).view(torch.bfloat16).nan_to_num()
    order = torch.arange(1023, -1, -1)

    def fused() -> torch.Tensor:
        return torch.cat([part[order], part.T, *[part] * 14]).float()

    with Deferred():
        fused()  # the first time, PyTorch loads what shapes without storage take
    before = anonymous_memory()
    with Deferred() as mode:
        weights = [torch.nn.Parameter(fused(), requires_grad=False) for _ in range(4)]
        small = part[0].float()
    assert anonymous_memory() - before < weights[0].nbytes / 4
    assert weights[0].shape == (16 * 1024, 1024) and all(mode.is_deferred(weight) for weight in weights)
    assert torch.equal(mode.compute(weights[1]), fused()) and torch.equal(small, part[0].float())
    with pytest.raises(NotImplementedError, match=r"split.*of a weight"), mode:
        weights[0].split(1024)


def test_weights_are_read_as_if_in_no_mode() -> None:
    checkpoint = load_checkpoint(str(random_bundle("base").checkpoint))
    plain = checkpoint.weights("text_encoder")
    with Deferred() as mode:
        seen = Unseen(plain)
        assert list(seen) == list(plain) and len(seen) == len(plain)
        tensors = [seen[name] for name in seen]
    assert not any(mode.is_deferred(tensor) for tensor in tensors)


def anonymous_memory() -> int:
    """Bytes of this process that no file backs."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
