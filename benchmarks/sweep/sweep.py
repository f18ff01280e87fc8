"""A whole sweep: the ceiling, latency, the peer, quality, jump errors; then the report and the bundle's calibration."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np

import anyflow_rt
from anyflow_rt.benchmarks import ceiling
from anyflow_rt.benchmarks.denoiser import denoiser_operations
from anyflow_rt.benchmarks.metrics.contract import Metric
from anyflow_rt.benchmarks.metrics.registry import metrics
from anyflow_rt.benchmarks.pages.report import prepare_report, write_report
from anyflow_rt.benchmarks.pages.sheet import ContactSheet
from anyflow_rt.benchmarks.results.describe import describe_metrics
from anyflow_rt.benchmarks.results.file import RESULTS_NAME, keep_older
from anyflow_rt.benchmarks.results.machine import describe_machine, package_versions, project_commit
from anyflow_rt.benchmarks.results.summary import Summary
from anyflow_rt.benchmarks.results.values import Ceiling, JumpError, Rate, Results, Settings
from anyflow_rt.benchmarks.sweep.calibrating import keep_calibration
from anyflow_rt.benchmarks.sweep.checks import check_bundle, check_packages
from anyflow_rt.benchmarks.sweep.comparison import compare
from anyflow_rt.benchmarks.sweep.journal import CONTEXT, NAME, Journal
from anyflow_rt.benchmarks.sweep.jump_errors import measure_jumps
from anyflow_rt.benchmarks.sweep.latency import CACHED, TIMED, WARM_UP, measure_latency
from anyflow_rt.benchmarks.sweep.memory import measure_memory
from anyflow_rt.benchmarks.sweep.options import SweepOptions
from anyflow_rt.benchmarks.sweep.prompts import describe_source
from anyflow_rt.benchmarks.sweep.quality import Generate, measure_quality
from anyflow_rt.benchmarks.sweep.tally import Display, Tally
from anyflow_rt.benchmarks.sweep.watching import faults
from anyflow_rt.engines.geometry import PAD_KEYS, latent_size, token_grid
from anyflow_rt.prompt import PromptTokenizer
from anyflow_rt.runtime import Runtime

SHEET_PROMPTS = 6


@dataclass(frozen=True)
class SweepReport:
    """What was measured, the figures drawn from it, and whether the bundle's calibration was written."""

    results: Results
    summary: Summary
    calibrated: bool


def run_sweep(options: SweepOptions, say: Callable[[str], None], display: Callable[[str], Display]) -> SweepReport:
    """Measure, write the report, and keep the calibration in the bundle.

    Everything that can be refused is refused first. An interrupt keeps what was measured in ``samples.jsonl`` of the
    report directory, where ``resume`` goes on. Raises AnyflowError of several kinds, each naming the mend.
    """
    chosen = metrics(options.metrics)
    check_packages(options, chosen)
    new = not options.report.exists()
    try:
        with anyflow_rt.load(options.bundle, engine=options.engine, precision=options.precision) as runtime:
            check_bundle(options, runtime, chosen)
            prepare_report(options.report)
            machine = describe_machine()
            on = {"processor": machine.processor, "cores": machine.cores}
            identity = options.identity(runtime.bundle.id, runtime.engine, runtime.precision) | on
            with Journal(options.report / NAME, identity, resume=options.resume) as journal, journal.interrupts():
                results, sheet = _measure(options, runtime, chosen, Tally(journal, say, display))
                say(f"drawing the report in {options.report}")
                older = keep_older(options.report / RESULTS_NAME)
                if older is not None:
                    say(f"the results of another run that were there are kept as {older}")
                summary = write_report(results, options.report, sheet)
                calibrated = keep_calibration(results, runtime.bundle, say)
                journal.finish()
    finally:
        if new:
            with contextlib.suppress(OSError):
                options.report.rmdir()  # where nothing came of it
    return SweepReport(results, summary, calibrated)


def _measure(
    options: SweepOptions, runtime: Runtime, chosen: tuple[Metric, ...], tally: Tally
) -> tuple[Results, ContactSheet]:
    versions, commit = package_versions(), project_commit()
    program = (commit, ", ".join(f"{name} {version}" for name, version in versions.items()))
    if program not in tally.journal.get(CONTEXT):
        tally.journal.add(CONTEXT, program, None)
    limit = _ceiling(options, runtime, tally)
    rate, name = max((median(rate.gigaflops), rate.name) for rate in limit.rates)
    tally.say(f"ceiling: {rate:.0f} GFLOP/s at {limit.precision}, {name}")
    latency, gpu, notes = measure_latency(options, runtime, tally)
    memory = measure_memory(options, runtime, gpu, tally)
    verdict, peers = compare(options, runtime, tally) if options.compare else (None, ())
    generate = partial(_frames, options, runtime)
    scores, features, sets = measure_quality(options, chosen, generate, tally)
    edges = tally.each(
        "jump errors",
        options.videos()[: options.jump_videos],
        lambda key: [[*edge, error] for edge, error in measure_jumps(runtime, *key).items()],
    )
    by_edge: dict[tuple[int, int], list[float]] = {}
    for video in edges.values():
        for start, end, error in video:
            by_edge.setdefault((start, end), []).append(error)
    size = runtime.bundle.defaults.size
    results = Results(
        machine=describe_machine(),
        versions=versions,
        commit=commit,
        bundle_id=runtime.bundle.id,
        latency=latency,
        quality=scores,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        settings=Settings(
            size=(size.num_frames, size.height, size.width),
            fps=runtime.bundle.defaults.fps,
            engine=runtime.engine,
            precision=runtime.precision,
            warm_up=WARM_UP,
            timed=TIMED,
            cached=CACHED,
            mean_velocity=options.mean_velocity,
            reference_steps=options.reference_steps if any(metric.needs_reference for metric in chosen) else None,
            rounds=options.rounds,
            seeds=options.seeds,
            first_seed=options.first_seed,
            prompts=describe_source(options.prompt_source),
        ),
        metrics=describe_metrics(chosen),
        set_scores=sets,
        features=features,
        ceiling=limit,
        memory=memory,
        gpu=gpu,
        peers=peers,
        parity=verdict,
        jump_errors=tuple(JumpError(start, end, tuple(errors)) for (start, end), errors in by_edge.items()),
        notes=notes + _parts(tally),
        invalid_reasons=faults(tally),
    )
    return results, _sheet(options, generate)


def _parts(tally: Tally) -> tuple[str, ...]:
    """A note where a sweep was gone on with by another program than it began with."""
    contexts = [f"commit {commit}; {versions}" for commit, versions in tally.journal.get(CONTEXT)]
    return (f"measured in parts, by different programs: {' / '.join(contexts)}",) if len(contexts) > 1 else ()


def _ceiling(options: SweepOptions, runtime: Runtime, tally: Tally) -> Ceiling:
    """The machine's rates at the engine's precision, and the matrix work of one jump at the default size."""

    def measure(_: object) -> list[list[object]]:
        return [[sample.name, list(sample.values)] for sample in ceiling.measure(runtime.precision).samples]

    rates = tally.each("ceiling", [(runtime.precision,)], measure)[(runtime.precision,)]
    transformer = runtime.bundle.architecture.transformer
    frames, height, width = token_grid(
        transformer, latent_size(runtime.bundle.architecture, runtime.bundle.defaults.size)
    )
    tokens = PromptTokenizer(runtime.bundle.tokenizer_path)(options.prompts[:1], 512).input_ids.shape[1]
    work = denoiser_operations(transformer, frames * height * width, tokens + PAD_KEYS)
    return Ceiling(runtime.precision, tuple(Rate(name, tuple(values)) for name, values in rates), work / 1e9)


def _frames(options: SweepOptions, runtime: Runtime, prompt: str, seed: int, steps: int) -> np.ndarray:
    result = runtime.generate(prompt, steps=steps, seed=seed, mean_velocity=options.mean_velocity)
    assert result.frames is not None
    return result.frames[0]


def _sheet(options: SweepOptions, generate: Generate) -> ContactSheet:
    """The first prompts, at every number of steps; made again, which gives the frames that were scored."""
    return ContactSheet(
        {
            (prompt, steps): generate(prompt, seed, steps)
            for prompt, seed in options.videos()[: min(SHEET_PROMPTS, len(options.prompts))]
            for steps in options.steps
        }
    )
