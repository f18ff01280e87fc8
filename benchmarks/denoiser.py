"""The denoiser alone at 214M parameters and 1,280 tokens: ours against diffusers, and against the machine's ceiling.

Four of the 30 layers of a 1.3B AnyFlow checkpoint (12 heads x 128, feed-forward 8960), random weights, a clip of
17 frames at 256x256. Ours is one jump as a run makes it: time embedder, denoiser, flow-map update. What a prompt
costs once (the conditioner) is measured beside it; diffusers does that work in every step.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anyflow_rt.benchmarks import ceiling, peers
from anyflow_rt.benchmarks.ceiling import Ceiling
from anyflow_rt.benchmarks.denoiser_sides import COMPONENTS, DiffusersSide, Inputs, OurSide, Side, random_inputs
from anyflow_rt.benchmarks.measure import Conditions, Sample, alternate, fastest, ratios
from anyflow_rt.benchmarks.random_checkpoint import write_random_checkpoint
from anyflow_rt.benchmarks.report import Outcome, Target
from anyflow_rt.engines import registry
from anyflow_rt.engines.architecture import TransformerConfig
from anyflow_rt.engines.checkpoint import Checkpoint, load_checkpoint
from anyflow_rt.engines.geometry import PAD_KEYS, VideoSize
from anyflow_rt.errors import ParityError

TRANSFORMER = {
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "num_layers": 4,
    "ffn_dim": 8960,
    "text_dim": 4096,
    "rope_max_seq_len": 1024,
}
SIZE = VideoSize(17, 256, 256)
TOKENS = 5 * 16 * 16
PROMPT_TOKENS = 24
"""Of a prompt of some twenty words. Round n has n more, so that no two are alike."""
WARM_UPS = 2
OVER_EAGER, OVER_BEST = 3.0, 1.6
VELOCITY_BOUNDS = {"fp32": 1e-4, "bf16": 2e-2}
"""||a - b|| / ||b|| of the velocity against diffusers fp32, before anything is timed."""


def run(conditions: Conditions) -> Outcome:
    """The ceiling first, then parity, then the times. Raises ParityError where the velocities differ."""
    peers.require_diffusers("the denoiser benchmark")
    precisions = list(dict.fromkeys(("fp32", registry.default_precision(registry.default_engine())[0])))
    conditions.quiet()
    ceilings = {precision: ceiling.measure(precision) for precision in precisions}
    for each in ceilings.values():
        conditions.say(str(each))
    with tempfile.TemporaryDirectory(prefix="anyflow-rt-bench-") as folder:
        conditions.say("exporting the denoiser")
        checkpoint = load_checkpoint(write_random_checkpoint(Path(folder) / "checkpoint", **TRANSFORMER))
        _export(checkpoint, Path(folder))
        ours = {f"anyflow-rt {each}": OurSide(checkpoint.architecture, Path(folder), each, SIZE) for each in precisions}
        theirs = _theirs(checkpoint.path)
        inputs = [
            random_inputs(checkpoint.architecture, SIZE, PROMPT_TOKENS + n, seed=n) for n in range(conditions.rounds)
        ]
        try:
            notes = _gate(ours, theirs, inputs[0])
            for note in notes:
                conditions.say(note)
            samples, prompts, others = _times({**ours, **theirs}, list(ours), inputs, conditions)
        finally:
            for side in ours.values():
                side.close()
    if not peers.can_compile():
        notes.append("torch.compile was not measured: there is no C++ compiler here")
    operations = denoiser_operations(checkpoint.architecture.transformer, TOKENS, PROMPT_TOKENS + PAD_KEYS)
    return _outcome(samples, prompts, ceilings, operations, notes, others)


def denoiser_operations(config: TransformerConfig, tokens: int, keys: int) -> float:
    """Floating point operations of the matrix products of one jump, a multiply-add counting two.

    With L tokens, P prompt keys, width D, feed-forward width E and p values a patch, a block has 8 L D^2 for q, k, v
    and the output, 4 L^2 D for self-attention, 4 L D^2 for the two projections of cross-attention, 4 L P D for its
    attention and 4 L D E for the feed-forward layers; patches in and out add 4 L p D. Norms, rotary embedding,
    softmax and modulation count nothing: the share of the ceiling is of useful matrix work alone.
    """
    width, patch = config.inner_dim, config.in_channels * config.patch_size[1] * config.patch_size[2]
    block = 12 * width * width + 4 * tokens * width + 4 * keys * width + 4 * width * config.ffn_dim
    return float(tokens * (config.num_layers * block + 4 * patch * width))


def _export(checkpoint: Checkpoint, folder: Path) -> None:
    from anyflow_rt.engines.export.components import export_component

    for name in COMPONENTS:
        export_component(name, checkpoint.architecture, checkpoint.weights("transformer"), folder / f"{name}.onnx")


def _theirs(checkpoint: Path) -> dict[str, Side]:
    return {
        name: DiffusersSide(checkpoint, precision, compiled=compiled)
        for name, (precision, compiled) in peers.variants().items()
    }


def _gate(ours: Mapping[str, Side], theirs: Mapping[str, Side], inputs: Inputs) -> list[str]:
    reference = theirs["diffusers fp32 eager"]
    wanted = reference.jump(reference.prepare(inputs))
    notes = []
    for name, side in (*ours.items(), ("diffusers bf16 eager", theirs["diffusers bf16 eager"])):
        error = float(np.linalg.norm(side.jump(side.prepare(inputs)) - wanted) / np.linalg.norm(wanted))
        notes.append(f"velocity of {name} against diffusers fp32: {error:.1e} relative")
        if name in ours and not error <= VELOCITY_BOUNDS[name.split()[-1]]:
            raise ParityError(f"no speed is reported of another result: {notes[-1]}, bounds {VELOCITY_BOUNDS}")
    return notes


def _times(
    sides: Mapping[str, Side], ours: list[str], inputs: list[Inputs], conditions: Conditions
) -> tuple[dict[str, Sample], dict[str, Sample], float]:
    """Seconds of a jump of every side, seconds of what ours do once a prompt, and the cores that others used."""
    prepared = {name: [side.prepare(each) for each in inputs] for name, side in sides.items()}
    conditions.say(f"warming up {len(sides)} contenders, {WARM_UPS} jumps each")
    for name, side in sides.items():
        for _ in range(WARM_UPS):
            side.jump(prepared[name][0])
    watch = conditions.quiet()
    samples = alternate({name: partial(_jump, side, prepared[name]) for name, side in sides.items()}, len(inputs))
    prompts = alternate({name: partial(_prepare, sides[name], inputs) for name in ours}, len(inputs))
    return samples, prompts, conditions.still_quiet(watch)


def _jump(side: Side, prepared: list[Any], number: int) -> Any:
    return side.jump(prepared[number])


def _prepare(side: Side, inputs: list[Inputs], number: int) -> Any:
    return side.prepare(inputs[number])


def _outcome(
    samples: dict[str, Sample],
    prompts: dict[str, Sample],
    ceilings: dict[str, Ceiling],
    operations: float,
    notes: list[str],
    others: float,
) -> Outcome:
    ours = fastest([sample for name, sample in samples.items() if name.startswith("anyflow-rt")])
    best = fastest([sample for name, sample in samples.items() if name.startswith("diffusers")])
    eager, ours_fp32 = samples["diffusers fp32 eager"], samples["anyflow-rt fp32"]
    over_eager = ratios(f"{eager.name} / {ours.name}", eager, ours)
    over_best = ratios(f"{best.name} (its best) / {ours.name}", best, ours)
    notes = [*notes, f"{operations / 1e9:.0f} GFLOP of matrix products a jump"]
    for precision, limit in ceilings.items():
        sample = samples[f"anyflow-rt {precision}"]
        rate = operations / sample.median / 1e9
        notes.append(
            f"{sample.name}: {rate:.0f} GFLOP/s, {rate / limit.rate:.0%} of the ceiling of {limit.rate:.0f} GFLOP/s"
        )
    once = [Sample(f"{name}, once a prompt (conditioner)", sample.values) for name, sample in prompts.items()]
    rates = [sample for limit in ceilings.values() for sample in limit.samples]
    return Outcome(
        "denoiser: one jump, 214M parameters, 1,280 tokens",
        (*rates, *samples.values(), *once),
        (over_eager, over_best, ratios(f"{eager.name} / {ours_fp32.name}", eager, ours_fp32)),
        (
            Target("our best over diffusers fp32 eager", over_eager.median, OVER_EAGER, at_least=True),
            Target("our best over its best", over_best.median, OVER_BEST, at_least=True),
        ),
        tuple(notes),
        others,
    )
