"""Peak memory and time of exporting a 1.3B-parameter checkpoint: random weights, bf16 shards.

Takes minutes, and 10 GB of disk below the temporary directory while it runs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from anyflow_rt.benchmarks.measure import Conditions, Sample
from anyflow_rt.benchmarks.processes import own_command, run_command
from anyflow_rt.benchmarks.random_checkpoint import write_random_checkpoint
from anyflow_rt.benchmarks.report import Outcome, Target
from anyflow_rt.engines.architecture import parameter_estimate
from anyflow_rt.engines.checkpoint_config import read_architecture

TRANSFORMER = {
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "num_layers": 30,
    "ffn_dim": 8960,
    "text_dim": 4096,
    "rope_max_seq_len": 1024,
}
PEAK_GIGABYTES = 12.0


def run(conditions: Conditions) -> Outcome:
    """``anyflow-rt build --onnx-only`` once, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="anyflow-rt-bench-") as folder:
        conditions.say("writing a random checkpoint")
        checkpoint = write_random_checkpoint(Path(folder) / "checkpoint", **TRANSFORMER)
        parameters = parameter_estimate(read_architecture(checkpoint))["transformer"]
        conditions.say(f"exporting a denoiser of {parameters / 1e9:.2f}B parameters")
        options = ["--ckpt", checkpoint, "--out", Path(folder) / "bundle", "--onnx-only", "--no-check-parity"]
        ran = run_command([*own_command(), "build", *options])
    peak = Sample("peak resident set", (ran.peak / 1e9,), "GB")
    anonymous = Sample("peak without mapped files", (ran.anonymous / 1e9,), "GB")
    return Outcome(
        f"export: {parameters / 1e9:.2f}B parameters, bf16 shards, to ONNX in float32",
        (peak, anonymous, Sample("time", (ran.seconds,))),
        targets=(Target("peak memory of the build", peak.median, PEAK_GIGABYTES, at_least=False, unit="GB"),),
    )
