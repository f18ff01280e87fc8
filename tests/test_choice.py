"""Which engine a bundle runs on: what its manifest has, what the machine has, what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from anyflow_rt import choice
from anyflow_rt.choice import Call, choose
from anyflow_rt.engines import registry
from anyflow_rt.engines.architecture import (
    Architecture,
    CausalConfig,
    SchedulerConfig,
    TextEncoderConfig,
    TransformerConfig,
    VaeConfig,
)
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.gpu import present_target
from anyflow_rt.engines.manifest import CheckpointRecord, Defaults, EngineRecord, FileRecord, Manifest
from anyflow_rt.errors import BundleError, EngineError, UsageError


def bundle(*engines: tuple[str, str, str], profile: Sequence[str] = (), causal: CausalConfig | None = None) -> Bundle:
    """A bundle that has (target, engine, precision), of each ``profile`` or for every size; nothing is on a disk."""
    text = TextEncoderConfig(vocab_size=10, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    architecture = Architecture("AnyFlowPipeline", TransformerConfig(), VaeConfig(), text, SchedulerConfig(), causal)
    profiles = dict(enumerate(profile))
    records = tuple(
        EngineRecord(
            target,
            engine,
            precision,
            profiles.get(index, "dynamic"),
            {},
            tuple(
                FileRecord(f"engines/{target}/{engine}-{precision}-dynamic/{name}.safetensors", 1, "0")
                for name in ("denoiser", "conditioner")
            ),
            0.0,
        )
        for index, (target, engine, precision) in enumerate(engines)
    )
    return Bundle(
        Path("/bundles/b"),
        Manifest(
            CheckpointRecord("owner/name", None, "a" * 64),
            1,
            architecture,
            Defaults(17, 64, 64, 8),
            FileRecord("tokenizer.json", 1, "0"),
            (),
            records,
            {},
        ),
    )


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):
    """``gpu("sm_89")``: from then on the machine has that one; None for none."""

    def have(target: str | None) -> None:
        monkeypatch.setattr(choice, "present_target", lambda: target)

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    have(None)
    return have


BOTH = bundle(("sm_89", "triton", "bf16"), ("sm_89", "triton", "fp32"), ("sm_90", "triton", "bf16"))


def test_the_gpu_that_is_there_is_used_where_the_bundle_has_an_engine_for_it(gpu) -> None:
    gpu("sm_89")
    for asked in ({}, {"engine": "triton"}, {"precision": "bf16"}, {"engine": "triton", "precision": "bf16"}):
        chosen = choose(BOTH, **asked)
        assert (chosen.engine, chosen.precision) == ("triton", "bf16")
        assert chosen.record is not None and chosen.record.target == "sm_89"
    found = choose(BOTH, precision="fp32")
    assert found.record is not None and found.record.precision == "fp32"
    path = BOTH.engine_path(found.record, "denoiser")
    assert path == Path("/bundles/b/engines/sm_89/triton-fp32-dynamic/denoiser.safetensors")
    with pytest.raises(
        BundleError, match=r"no text_encoder for sm_89 triton fp32; build it again with .* --force --ta"
    ):
        BOTH.engine_path(found.record, "text_encoder")


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (Call(), "17x64x64"),
        (Call(num_frames=9), "5x64x64-13x64x64"),
        (Call(num_frames=5, videos=2), "5x64x64-13x64x64-batch4"),
        (Call(height=128, width=128), "17x128x128"),
        (Call(height=256), "17x128x128"),
    ],
)
def test_of_several_engines_the_one_that_is_built_for_the_call(gpu, call: Call, expected: str) -> None:
    """Where none is, one of them all the same: the run then says what to do."""
    gpu("sm_90")
    profile = ("17x128x128", "17x64x64-triton_norms", "17x64x64-int8_text", "17x64x64-all_keys", "17x64x64")
    profile += ("5x64x64-13x64x64-batch4", "5x64x64-13x64x64")
    found = choose(bundle(*[("sm_90", "tensorrt", "bf16")] * len(profile), profile=profile), call=call)
    assert found.record is not None and found.record.profile == expected


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (Call(121), "161x64x64"),
        (Call(81), "81x64x64"),
        (Call(57), "81x64x64"),
        (Call(57, videos=2), "161x64x64-batch2"),
        (Call(57, 64, 128), "9x64x64-81x64x128"),
        (Call(121, 64, 128), "161x64x64-batch2"),
    ],
)
def test_a_causal_engine_takes_shorter_videos(gpu, call: Call, expected: str) -> None:
    """The smallest of those that do; where none does, the largest: the run then says what to do."""
    gpu("sm_90")
    profile = ("161x64x64", "81x64x64", "161x64x64-batch2", "9x64x64-81x64x128")
    engines = [("sm_90", "tensorrt", "bf16")] * len(profile)
    for order in (profile, profile[::-1]):
        made = bundle(*engines, profile=order, causal=CausalConfig((1, 2, 2), 3, (1, 4, 4)))
        found = choose(made, call=call)
        assert found.record is not None and found.record.profile == expected


def test_an_engine_for_later_gpus_too(gpu) -> None:
    built = [("sm_80", "tensorrt", "bf16"), ("sm_90", "tensorrt", "bf16")]
    both = bundle(*built, profile=("17x64x64-ampere_plus", "17x64x64"))
    for present, expected in (("sm_90", "sm_90"), ("sm_89", "sm_80"), ("sm_75", None)):
        gpu(present)
        found = choose(both).record
        assert (None if found is None else found.target) == expected


def test_otherwise_the_cpu_is(gpu) -> None:
    usual = (registry.default_engine(), registry.default_precision(registry.default_engine())[0])
    for target, made in ((None, BOTH), ("sm_120", BOTH), ("sm_89", bundle()), ("sm_89", bundle(("cpu", *usual)))):
        gpu(target)
        chosen = choose(made)
        assert (chosen.engine, chosen.precision, chosen.record) == (*usual, None)
    gpu("sm_89")
    chosen = choose(BOTH, "onnxruntime")
    assert (chosen.engine, chosen.precision, chosen.record) == ("onnxruntime", "fp32", None)


@pytest.mark.parametrize(
    ("target", "made", "message"),
    [
        (None, BOTH, "needs an NVIDIA GPU and this machine shows none; leave out --engine triton to run on the CPU"),
        (
            "sm_120",
            BOTH,
            r"has no triton engine for sm_120 \(it has sm_89 triton bf16, .*\); add it with  anyflow-rt build --ckpt "
            "owner/name --out /bundles/b --target sm_120 --engine triton",
        ),
        ("sm_89", bundle(), "has no triton engine for sm_89; add it with  anyflow-rt build .* --target sm_89 --engine"),
    ],
)
def test_an_engine_that_cannot_be_had_is_one_sentence_with_the_mend(gpu, target, made, message) -> None:
    gpu(target)
    with pytest.raises((EngineError, BundleError), match=message) as raised:
        choose(made, "triton")
    assert "\n" not in str(raised.value)


def test_precisions_that_were_not_built(gpu) -> None:
    gpu("sm_90")
    with pytest.raises(
        BundleError, match=r"has sm_90 triton bf16, and precision fp32 was asked for; .* --precision fp3"
    ):
        choose(BOTH, "triton", "fp32")
    assert choose(BOTH, precision="fp32").record is None, "the CPU has it"
    with pytest.raises(UsageError, match="unknown precision 'fp64'"):
        choose(BOTH, "triton", "fp64")
    with pytest.raises(UsageError, match="unknown engine 'magic'; the engines are openvino, onnxruntime, triton"):
        choose(BOTH, "magic")


@pytest.mark.parametrize("target", [None, "sm_89", "sm_90"])
def test_interpreted_kernels_run_the_weights_of_any_target(gpu, target, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, whether there is a GPU or not."""
    gpu(target)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    found = choose(bundle(("sm_90", "triton", "bf16")), "triton")
    assert found.record is not None and found.record.target == "sm_90"
    assert choose(BOTH).record is None, "only where it is asked for"
    with pytest.raises(BundleError, match=r"has no triton engine for (any GPU|sm_..); add it with"):
        choose(bundle(), "triton")


def test_the_driver_is_asked_and_may_be_missing() -> None:
    target = present_target()
    assert target is None or target.startswith("sm_")
