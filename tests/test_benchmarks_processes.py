"""Benchmarks that run other processes: what is measured of a command, random checkpoints, and what a run imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.bundles import random_bundle

from anyflow_rt.benchmarks.processes import run_command
from anyflow_rt.benchmarks.random_checkpoint import write_random_checkpoint
from anyflow_rt.engines.checkpoint import load_checkpoint
from anyflow_rt.errors import AnyflowError

MEGABYTE = 1 << 20


def test_a_run_imports_nothing_heavy(tmp_path: Path) -> None:
    """Prompt to mp4 in a process of its own, on the default engine: neither torch nor what needs it."""
    script = (
        "import sys\n"
        "from anyflow_rt.cli.main import main\n"
        "code = main(sys.argv[1:])\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'onnx', 'onnxscript', 'safetensors'} & set(sys.modules)\n"
        "assert code == 0 and not heavy, (code, heavy)\n"
    )
    size = ["--height", "32", "--width", "32", "--num-frames", "5", "--steps", "2"]
    output = tmp_path / "out.mp4"
    options = ["run", "--bundle", str(random_bundle("base").path), "--prompt", "a red circle", "--output", str(output)]
    done = subprocess.run([sys.executable, "-c", script, *options, *size], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert output.stat().st_size > 0


def test_the_peak_of_a_command_is_its_own() -> None:
    """Not that of the process that asks, which Linux would count where it starts the command itself."""
    ours = np.ones(400 * MEGABYTE, np.uint8)
    small = run_command([sys.executable, "-c", "print('said')"])
    large = run_command([sys.executable, "-c", "b = bytearray(100 << 20); b[::4096] = b[::4096]"])
    assert small.output == "said\n"
    assert small.peak < 60 * MEGABYTE < len(ours)
    assert large.peak - small.peak == pytest.approx(100 * MEGABYTE, rel=0.1)
    assert 0 < small.seconds < 10


def test_a_command_that_fails_is_an_error_with_its_last_words() -> None:
    with pytest.raises(AnyflowError, match="too bad"):
        run_command([sys.executable, "-c", "import sys; sys.exit('too bad')"])


def test_random_checkpoints_are_whole_and_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers
    import torch
    import transformers

    monkeypatch.setattr("anyflow_rt.benchmarks.random_checkpoint.SHARD_BYTES", 20_000)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1, "ffn_dim": 40, "text_dim": 24}
    folder = write_random_checkpoint(tmp_path / "checkpoint", **sizes)
    checkpoint = load_checkpoint(folder)
    assert checkpoint.architecture.transformer.ffn_dim == 40
    assert checkpoint.architecture.text_encoder.d_model == 24
    index = json.loads((folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    weights = checkpoint.weights("transformer")
    assert {weights.dtype(name) for name in weights} == {torch.bfloat16}
    pipeline = diffusers.AnyFlowPipeline.from_pretrained(folder)
    assert isinstance(pipeline.text_encoder, transformers.UMT5EncoderModel)
    again = write_random_checkpoint(tmp_path / "again", **sizes)
    name = "blocks.0.ffn.net.2.weight"
    assert weights[name].equal(load_checkpoint(again).weights("transformer")[name])
