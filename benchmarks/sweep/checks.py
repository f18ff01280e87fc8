"""What a sweep needs, checked before it begins: packages, the peer's checkpoint, what metrics can score."""

from __future__ import annotations

from collections.abc import Sequence

from anyflow_rt.benchmarks import peers
from anyflow_rt.benchmarks.metrics.contract import Metric, PromptError
from anyflow_rt.benchmarks.optional import optional_module
from anyflow_rt.benchmarks.sweep.options import SweepOptions
from anyflow_rt.benchmarks.sweep.prompts import place_of
from anyflow_rt.engines.checkpoint import load_checkpoint
from anyflow_rt.errors import UsageError
from anyflow_rt.runtime import Runtime


def check_packages(options: SweepOptions, metrics: Sequence[Metric]) -> None:
    """Raises MissingPackageError, UsageError with file and line for a prompt that a metric cannot score, and what else
    ``Metric.check`` says."""
    optional_module("psutil", "measuring")
    if options.compare:
        peers.require_diffusers("comparing with diffusers")
    for metric in metrics:
        try:
            metric.check(options.prompts)
        except PromptError as error:
            place = place_of(error.prompt, options.prompt_source)
            raise UsageError(f"{place}{error}; leave out {metric.name} with --metrics {_others(metric)}") from error


def _others(metric: Metric) -> str:
    """Metrics that take any prompt and need no networks."""
    return ",".join(name for name in ("fidelity", "motion") if name != metric.name)


def check_bundle(options: SweepOptions, runtime: Runtime, metrics: Sequence[Metric]) -> None:
    """Raises UsageError for videos that a metric cannot score, CheckpointError where the peer has nothing to load."""
    for metric in metrics:
        metric.check_size(runtime.bundle.defaults.size)
    if options.compare:
        record = runtime.bundle.manifest.checkpoint
        load_checkpoint(record.id, revision=record.revision)
