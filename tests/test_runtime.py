"""The public object on a random checkpoint's bundle: what every option means, apart from parity with diffusers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support.bundles import random_bundle

import anyflow_rt
from anyflow_rt.components import COMPUTE_TYPE_PORTS
from anyflow_rt.engines import registry
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.bundle_writer import BundleWriter
from anyflow_rt.engines.checkpoint import load_checkpoint
from anyflow_rt.engines.export import EXPORT_VERSION
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.engines.openvino_package import processor_has_bf16
from anyflow_rt.errors import AnyflowError, BundleError, OutputError, UsageError
from anyflow_rt.request import make_request
from anyflow_rt.runtime import Runtime
from anyflow_rt.sampling.schedule import uniform_plan
from anyflow_rt.shipped import SHIPPED, shipped_hash

SIZE: dict[str, Any] = {"height": 32, "width": 48, "num_frames": 5, "max_sequence_length": 32}
PROMPT, OTHER = "a red circle", "the small green square moves slowly left"
PRECISIONS = [
    ("onnxruntime", "fp32"),
    ("openvino", "fp32"),
    pytest.param(
        ("openvino", "bf16"), marks=pytest.mark.skipif(not processor_has_bf16(), reason="no bf16 instructions here")
    ),
]


@pytest.fixture(scope="module")
def bundle() -> Path:
    return random_bundle("base").path


@pytest.fixture(scope="module")
def runtime(bundle: Path) -> Iterator[Runtime]:
    with anyflow_rt.load(bundle, engine="openvino", precision="fp32") as opened:
        yield opened


def latents(runtime: Runtime, prompt: Any = PROMPT, **options: Any) -> np.ndarray:
    return runtime.generate(prompt, **{**SIZE, "steps": 2, "output": "latents", **options}).latents


def played(path: Path) -> np.ndarray:
    """The frames of a file as a player shows them, uint8 (T, H, W, 3)."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def close(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal but for the order of a product's sums, which may differ with the batch."""
    return bool(np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b))


def test_what_comes_back(runtime: Runtime) -> None:
    result = runtime.generate(PROMPT, seed=3, **SIZE)
    assert result.frames is not None
    assert (result.frames.shape, result.frames.dtype) == ((1, 5, 32, 48, 3), np.uint8)
    assert (result.latents.shape, result.latents.dtype) == ((1, 2, 16, 4, 6), np.float32)
    assert result.plan == tuple((jump.t, jump.r) for jump in uniform_plan(4, 5.0))
    assert (result.seed, result.size, result.engine, result.precision) == (3, (5, 32, 48), "openvino", "fp32")
    assert (result.budget, result.decisions, result.paths) == (None, (), ())
    seconds = result.seconds
    assert len(seconds.jumps) == 4
    parts = seconds.load + seconds.text + seconds.conditioner + sum(seconds.jumps) + seconds.decode
    assert 0 < parts <= seconds.total


def test_the_same_call_gives_the_same_bits(runtime: Runtime, bundle: Path) -> None:
    first, second = (runtime.generate(PROMPT, steps=2, seed=5, **SIZE) for _ in range(2))
    with anyflow_rt.load(str(bundle), engine="openvino", precision="fp32") as again:
        third = again.generate([PROMPT], steps=2, seed=5, **SIZE)
    for other in (second, third):
        assert np.array_equal(first.latents, other.latents)
        assert np.array_equal(first.frames, other.frames)
    assert not np.array_equal(first.latents, latents(runtime, seed=6))


def test_results_stay_as_they_were(runtime: Runtime) -> None:
    """A later call must not write into what an earlier one handed out."""
    first = runtime.generate(PROMPT, steps=1, **SIZE)
    kept = first.latents.copy(), first.frames.copy()
    runtime.generate(OTHER, steps=1, seed=9, **SIZE)
    assert np.array_equal(first.latents, kept[0])
    assert np.array_equal(first.frames, kept[1])


def test_seeds_of_each_video(runtime: Runtime) -> None:
    both = latents(runtime, num_videos=2, seed=[4, 9])
    for index, seed in enumerate((4, 9)):
        assert close(both[index], latents(runtime, seed=[seed])[0])
    stream = latents(runtime, num_videos=2, seed=4)
    assert close(stream[0], both[0])
    assert not close(stream[1], both[1]), "one seed is one stream over the whole batch"
    with pytest.raises(UsageError, match=r"3"):
        latents(runtime, num_videos=2, seed=[1, 2, 3])


def test_videos_are_prompt_major(runtime: Runtime) -> None:
    all_four = latents(runtime, [PROMPT, OTHER], num_videos=2, seed=[1, 2, 3, 4])
    # Prompts of one call share their padding, so each is run beside the other here too.
    first = latents(runtime, [PROMPT, OTHER], seed=[2, 3])
    assert all_four.shape[0] == 4
    assert close(all_four[1], first[0])
    assert close(all_four[2], first[1])


def test_guidance(runtime: Runtime) -> None:
    plain = latents(runtime)
    assert np.array_equal(plain, latents(runtime, guidance_scale=1.0, negative_prompt=OTHER)), "1 is no guidance"
    guided = latents(runtime, guidance_scale=3.0)
    assert not close(guided, plain)
    assert np.array_equal(guided, latents(runtime, guidance_scale=3.0, negative_prompt=""))
    assert not close(guided, latents(runtime, guidance_scale=3.0, negative_prompt=OTHER))
    one = latents(runtime, [PROMPT, OTHER], guidance_scale=2.0, negative_prompt="blue")
    assert np.array_equal(
        one, latents(runtime, [PROMPT, OTHER], guidance_scale=2.0, negative_prompt=["blue", "blue"])
    ), "one negative prompt serves all"
    # One step is linear in the scale: z = z_uncond + g (z_cond - z_uncond).
    one_step = {scale: latents(runtime, steps=1, guidance_scale=scale) for scale in (1.0, 2.0, 3.0)}
    assert close(one_step[3.0] - one_step[2.0], one_step[2.0] - one_step[1.0])
    assert close(latents(runtime, OTHER, guidance_scale=2.0, negative_prompt=OTHER), latents(runtime, OTHER))


def test_mean_velocity(runtime: Runtime) -> None:
    assert not close(latents(runtime, mean_velocity=False), latents(runtime))


def test_latents_are_those_of_the_frames(runtime: Runtime) -> None:
    only = runtime.generate(PROMPT, steps=2, output="latents", **SIZE)
    assert only.frames is None
    assert only.seconds.decode == 0
    assert np.array_equal(only.latents, runtime.generate(PROMPT, steps=2, **SIZE).latents)
    with pytest.raises(UsageError, match="output='frames'"):
        only.save("out.mp4")
    with pytest.raises(UsageError, match="'video'"):
        runtime.generate(PROMPT, output="video", **SIZE)


def test_on_step(runtime: Runtime, tmp_path: Path) -> None:
    steps: list[Any] = []
    result = runtime.generate(PROMPT, steps=3, on_step=steps.append, **SIZE)
    assert [(step.index, step.steps) for step in steps] == [(0, 3), (1, 3), (2, 3)]
    assert tuple((step.t, step.r) for step in steps) == result.plan
    assert np.array_equal(steps[-1].latents, result.latents)
    assert tuple(step.seconds for step in steps) == result.seconds.jumps

    class Enough(Exception):
        pass

    def stop(step: Any) -> None:
        if step.index == 1:
            raise Enough

    path = tmp_path / "out.mp4"
    path.write_bytes(b"before")
    with pytest.raises(Enough):
        runtime.generate(PROMPT, steps=3, on_step=stop, **SIZE)
    with pytest.raises(Enough):
        runtime.generate_to_file(path, PROMPT, steps=3, on_step=stop, **SIZE)
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]
    assert path.read_bytes() == b"before"
    assert runtime.generate(PROMPT, steps=1, **SIZE).frames is not None, "the runtime is as good as before"


@pytest.mark.parametrize("name", ["out.npy", "out.png", "out.gif", "out.mp4"])
def test_files_equal_the_frames(runtime: Runtime, tmp_path: Path, name: str) -> None:
    """Streamed to a file, or generated and saved: the same bytes; in an npy the very frames.

    Each piece of a gif has its own 256 colours, and streaming makes other pieces: there the pictures are alike.
    """
    size = {**SIZE, "num_frames": 13}  # several chunks of the decoder
    result = runtime.generate(PROMPT, steps=1, **size)
    (streamed,) = runtime.generate_to_file(tmp_path / name, PROMPT, steps=1, **size).paths
    (saved,) = result.save(tmp_path / f"saved-{name}")
    if name == "out.gif":
        pictures = [played(path) for path in (streamed, saved)]
        assert pictures[0].shape == pictures[1].shape == result.frames[0].shape
        for each in pictures:
            assert np.abs(each.astype(int) - result.frames[0]).mean() < 8
    else:
        assert streamed.read_bytes() == saved.read_bytes()
    if name == "out.npy":
        assert np.array_equal(np.load(streamed), result.frames[0])


def test_files_of_several_videos(runtime: Runtime, tmp_path: Path) -> None:
    options = {**SIZE, "steps": 1, "num_videos": 2}
    frames = runtime.generate(PROMPT, **options).frames
    result = runtime.generate_to_file(tmp_path / "out.npy", PROMPT, **options)
    assert result.frames is None
    assert np.array_equal(np.load(tmp_path / "out.npy"), frames)
    paths = runtime.generate_to_file(str(tmp_path / "out.mp4"), PROMPT, **options).paths
    assert [path.name for path in paths] == ["out-0.mp4", "out-1.mp4"]
    assert all(path.stat().st_size for path in paths)


def test_one_frame(runtime: Runtime) -> None:
    frames = runtime.generate(PROMPT, steps=1, **{**SIZE, "num_frames": 1}).frames
    assert frames.shape == (1, 1, 32, 48, 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "steps must be a whole number from 1 to 1000, not 0"),
        ({"steps": -3}, "-3"),
        ({"steps": 10**9}, "1000000000"),
        ({"steps": 2.5}, "2.5"),
        ({"steps": True}, "True"),
        ({"height": 40}, "height 40 is not a multiple of 16"),
        ({"width": 0}, "width is 0"),
        ({"num_frames": 6}, "num_frames 6 is not 4n \\+ 1; the nearest that are: 5 and 9"),
        ({"num_frames": -1}, "-1"),
        ({"height": 10**6}, "rope_max_seq_len"),
        ({"num_videos": 0}, "num_videos is 0"),
        ({"num_videos": 10**9}, "num_videos 1000000000"),
        ({"seed": 2**64}, "18446744073709551616"),
        ({"seed": "x"}, "'x'"),
        ({"guidance_scale": float("nan")}, "nan"),
        ({"guidance_scale": -1.0}, "-1.0"),
        ({"guidance_scale": 2.0, "negative_prompt": ["a", "b"]}, "2 negative prompts for 1 prompts"),
        ({"max_sequence_length": 0}, "max_sequence_length"),
        ({"confidence": 1.5}, "confidence is 1.5"),
        ({"confidence": "high"}, "confidence is 'high'"),
        ({"confidence": True}, "confidence is True"),
        ({"min_steps": 0}, "min_steps"),
        ({"min_steps": 8, "max_steps": 4}, "min_steps 8 is above max_steps 4"),
        ({"min_steps": 40}, "min_steps 40 is above max_steps 32"),
        ({"steps": 2, "min_steps": 3}, "steps 2 is not within min_steps 3 and max_steps 32"),
        ({"steps": 8, "max_steps": 4}, "steps 8 is not within min_steps 1 and max_steps 4"),
        ({"mean_velocity": "no"}, "mean_velocity is 'no'"),
        ({"mean_velocity": None}, "mean_velocity is None"),
        ({"budget": -1.0}, "budget is -1.0"),
    ],
)
def test_bad_options_are_named_before_any_work(runtime: Runtime, tmp_path: Path, options: dict, said: str) -> None:
    def too_late(step: object) -> None:
        raise AssertionError("work was done")

    for call in (runtime.generate, lambda *a, **k: runtime.generate_to_file(tmp_path / "out.npy", *a, **k)):
        with pytest.raises(UsageError, match=said):
            call(PROMPT, on_step=too_late, **{**SIZE, **options})
    assert not list(tmp_path.iterdir())


def test_unknown_options_are_not_dropped(runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="stepps"):
        runtime.generate(PROMPT, stepps=1)
    for name in ("stepps", "output", "shift", "default_size"):
        with pytest.raises(UsageError, match=f"generate_to_file has no option {name}; its options are steps, "):
            runtime.generate_to_file(tmp_path / "out.npy", PROMPT, **{name: 1})
    assert not list(tmp_path.iterdir())


def test_steps_within_bounds(runtime: Runtime) -> None:
    for options, steps in (({"max_steps": 2}, 2), ({"min_steps": 6}, 6), ({"steps": 3, "min_steps": 3}, 3)):
        assert len(runtime.generate(PROMPT, output="latents", **SIZE, **options).plan) == steps
    assert len(make_request(PROMPT, default_size=VideoSize(1, 16, 16), shift=1.0, steps=64).plan) == 64


def test_bad_outputs_are_named_before_any_work(runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no directory"):
        runtime.generate_to_file(tmp_path / "none" / "out.mp4", PROMPT, **SIZE)
    for options, said in (
        ({"fps": 0}, "fps"),
        ({"quality": 101}, "101"),
        ({"on_step": "print"}, "on_step is 'print'"),
    ):
        with pytest.raises(UsageError, match=said):
            runtime.generate_to_file(tmp_path / "out.mp4", PROMPT, **SIZE, **options)
    with pytest.raises(UsageError, match="on_step is 5"):
        runtime.generate(PROMPT, on_step=5, **SIZE)
    for name in ("out.npy", "out.png"):
        with pytest.raises(UsageError, match=f"fps 12 does not apply to {name[-4:]} files"):
            runtime.generate_to_file(tmp_path / name, PROMPT, fps=12, **SIZE)
    with pytest.raises(UsageError, match="fps"):
        runtime.generate(PROMPT, steps=1, **SIZE).save(tmp_path / "out.mp4", fps=0)
    assert not list(tmp_path.iterdir())


def test_closed(bundle: Path) -> None:
    runtime = anyflow_rt.load(bundle, engine="onnxruntime", precision="fp32")
    runtime.close()
    runtime.close()
    with pytest.raises(UsageError, match="closed"):
        runtime.generate(PROMPT, **SIZE)


def test_engines_that_are_not_there(bundle: Path) -> None:
    for options, said in (
        ({"engine": "magic"}, "magic"),
        ({"engine": "onnxruntime", "precision": "bf16"}, "bf16"),
        ({"precision": "int8"}, "int8"),
        ({"engine": 5}, "unknown engine 5"),
        ({"engine": []}, "unknown engine"),
        ({"engine": ""}, "unknown engine ''"),
        ({"precision": ""}, "unknown precision ''"),
    ):
        with pytest.raises(UsageError, match=said):
            anyflow_rt.load(bundle, **options)


def test_without_bf16_a_note_says_so(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("anyflow_rt.engines.openvino_package.processor_has_bf16", lambda: False)
    with Runtime(Bundle.open(bundle), engine="openvino") as runtime:
        assert runtime.precision == "fp32"
    assert [record.message for record in caplog.records] == ["this processor has no bf16 instructions; running at fp32"]


def test_a_bundle_of_another_version(bundle: Path, tmp_path: Path) -> None:
    made = Bundle.open(bundle).manifest
    with BundleWriter(
        tmp_path / "other",
        checkpoint=made.checkpoint,
        export_version=EXPORT_VERSION + 1,
        architecture=made.architecture,
        defaults=made.defaults,
        packages={},
    ) as writer:
        writer.set_tokenizer(bundle / made.tokenizer.path)
        writer.commit()
    with pytest.raises(BundleError, match="--force"):
        anyflow_rt.load(tmp_path / "other")
    with pytest.raises(AnyflowError, match="no bundle at"):
        anyflow_rt.load(tmp_path / "nothing")


@pytest.mark.parametrize("target", PRECISIONS)
def test_interval_zero_keeps_every_bit(bundle: Path, target: tuple[str, str]) -> None:
    """Frames that are given rather than made have interval 0; whatever the network says, they come out untouched."""
    engine, precision = target
    path = Bundle.open(bundle).component_path("denoiser")
    random = np.random.default_rng(0)
    sizes = {"B": 2, "F": 3, "P": 7, "L": 3 * 2 * 4, "2*h": 4, "2*w": 8}
    with registry.open_engine(engine, path, precision=precision, compute_type=COMPUTE_TYPE_PORTS) as denoiser:
        arrays = {}
        for name, spec in denoiser.inputs.items():
            shape = [sizes[size] if isinstance(size, str) else size for size in spec.shape]
            values = random.standard_normal(shape, dtype=np.float32)
            # bfloat16 travels as its bits: the upper halves of float32.
            arrays[name] = values if spec.dtype == np.float32 else (values.view(np.uint32) >> 16).astype(np.uint16)
        # From subnormal to huge. Only -0.0 would not keep its bit: z - 0 u is 0.0 for it, an equal number.
        arrays["latents"][:, 1, 0, 0, :3] = [1e-40, -1e-45, 3e38]
        arrays["interval"] = np.array([[0.5, 0, 1], [0, 0, 0.25]], np.float32)
        moved = denoiser.infer(**arrays)["z_r"]
    still = arrays["interval"] == 0
    assert np.isfinite(moved[~still]).all()
    assert np.array_equal(moved[still].view(np.uint32), arrays["latents"][still].view(np.uint32))
    assert not np.array_equal(moved[~still], arrays["latents"][~still])


@pytest.mark.parametrize("name", SHIPPED)
def test_the_hash_of_a_shipped_checkpoint_is_the_checkpoints(name: str) -> None:
    assert shipped_hash(SHIPPED[name]) == load_checkpoint(SHIPPED[name]).content_hash()


def test_a_run_imports_nothing_heavy(bundle: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from anyflow_rt.cli.main import main\n"
        f"code = main(['run', '--bundle', {str(bundle)!r}, '--prompt', 'a circle', '--steps', '1', '--height', '32',"
        f" '--width', '32', '--num-frames', '5', '--output', {str(tmp_path / 'out.mp4')!r}])\n"
        "print(code, *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=120)
    code, *loaded = done.stdout.split()
    assert code == "0", done.stderr
    assert not {"torch", "diffusers", "transformers", "onnx", "onnxscript", "safetensors", "scipy"} & set(loaded)
