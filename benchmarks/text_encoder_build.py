"""The released checkpoints' text encoder, of 5.7 billion parameters: exported, and built for a GPU that is not there.

Random weights in bf16 shards, 11.4 GB; beside them the shapes checkpoint's other networks, as wide as its embeddings.
Takes a quarter of an hour or more, and 45 GB of disk below the temporary directory while it runs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from anyflow_rt.benchmarks.gpu_build import ENGINE, TARGET
from anyflow_rt.benchmarks.measure import Conditions, Sample
from anyflow_rt.benchmarks.processes import Ran, own_command, run_command
from anyflow_rt.benchmarks.random_checkpoint import write_random_checkpoint
from anyflow_rt.benchmarks.report import Outcome
from anyflow_rt.engines.architecture import parameter_estimate
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.checkpoint_config import read_architecture
from anyflow_rt.engines.tensorrt.record import read_facts
from anyflow_rt.errors import AnyflowError
from anyflow_rt.memory import available_memory

WIDTH = 4096
UMT5_XXL = {
    "d_ff": 10240,
    "d_kv": 64,
    "num_heads": 64,
    "num_layers": 24,
    "num_decoder_layers": 24,
    "vocab_size": 256384,
}
"""What it has otherwise than the shapes checkpoint's."""
SIZE = ["--num-frames", "9", "--height", "64", "--width", "64"]
"""Of the other engines: as small as they can be, so that the text encoder is what is measured."""
LEAST_MEMORY = 12e9
"""Bytes that have to be available: what the build takes, and some for everybody else."""


def run(conditions: Conditions) -> Outcome:
    """``anyflow-rt build --onnx-only --text-weights int8``, then ``--target sm_89``, each in a process of its own."""
    if (free := available_memory()) is not None and free < LEAST_MEMORY:
        raise AnyflowError(
            f"{free / 1e9:.1f} GB of memory are available and this takes {LEAST_MEMORY / 1e9:.0f}; end other programs"
        )
    with tempfile.TemporaryDirectory(prefix="anyflow-rt-bench-") as folder:
        conditions.say("writing a random checkpoint")
        checkpoint = write_random_checkpoint(Path(folder) / "checkpoint", None, UMT5_XXL, text_dim=WIDTH)
        parameters = parameter_estimate(read_architecture(checkpoint))["text_encoder"]
        bundle = Path(folder) / "bundle"
        conditions.say(f"exporting a text encoder of {parameters / 1e9:.2f}B parameters, its weights in 8 bits")
        export = ["--ckpt", checkpoint, "--out", bundle, "--onnx-only", "--text-weights", "int8", *SIZE]
        watch = conditions.quiet()
        exported = run_command([*own_command(), "build", *export, "--no-check-parity", "--no-calibrate"])
        conditions.say(f"building its engine for {TARGET}")
        target = ["--bundle", bundle, "--target", TARGET, "--engine", ENGINE]
        built = run_command([*own_command(), "build", *target])
        others = conditions.still_quiet(watch)
        return Outcome(
            f"text encoder of {parameters / 1e9:.2f}B parameters, 8-bit weights: export, and engine for {TARGET}",
            (*_samples("export", exported), *_samples("engines", built), *_sizes(bundle)),
            other_cores=others,
        )


def _samples(what: str, ran: Ran) -> tuple[Sample, ...]:
    return (
        Sample(f"{what}, time", (ran.seconds,)),
        Sample(f"{what}, peak without mapped files", (ran.anonymous / 1e9,), "GB"),
        Sample(f"{what}, peak resident set", (ran.peak / 1e9,), "GB"),
    )


def _sizes(folder: Path) -> tuple[Sample, ...]:
    """Of the text encoder alone: its graph, its engine, and the seconds that making the engine took."""
    bundle = Bundle.open(folder)
    graph = next(each for each in bundle.manifest.components if each.name == "text_encoder")
    (record,) = bundle.manifest.engines
    part = read_facts(bundle.engine_path(record, "text_encoder").parent).components["text_encoder"]
    return (
        Sample("graph on disk", (sum(file.size for file in graph.files) / 1e9,), "GB"),
        Sample("engine on disk", (part["bytes"] / 1e9,), "GB"),
        Sample("its typed graph and engine, time", (part["seconds"],)),
    )
