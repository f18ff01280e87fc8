"""What a sweep needs, checked before it begins: packages, the peer's checkpoint, what metrics can score."""

from __future__ import annotations

from collections.abc import Sequence

from anyflow_rt.benchmarks import peers
from anyflow_rt.benchmarks.metrics.contract import Metric
from anyflow_rt.benchmarks.optional import optional_module
from anyflow_rt.benchmarks.sweep.options import SweepOptions
from anyflow_rt.engines.checkpoint import load_checkpoint
from anyflow_rt.runtime import Runtime


def check_packages(options: SweepOptions, metrics: Sequence[Metric]) -> None:
    """Raises MissingPackageError, and what ``Metric.check`` says of prompts."""
    optional_module("psutil", "measuring")
    if options.compare:
        peers.require_diffusers("comparing with diffusers")
    for metric in metrics:
        metric.check(options.prompts)


def check_bundle(options: SweepOptions, runtime: Runtime, metrics: Sequence[Metric]) -> None:
    """Raises UsageError for videos that a metric cannot score, CheckpointError where the peer has nothing to load."""
    for metric in metrics:
        metric.check_size(runtime.bundle.defaults.size)
    if options.compare:
        record = runtime.bundle.manifest.checkpoint
        load_checkpoint(record.id, revision=record.revision)
