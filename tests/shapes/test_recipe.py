"""Training's forms equal those of diffusers; the shipped checkpoint loads and works."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from anyflow_rt.benchmarks.shapes.captions import held_out_prompts  # noqa: E402
from anyflow_rt.benchmarks.shapes.recipe.evaluate import FIRST_SEED, decode, sample  # noqa: E402
from anyflow_rt.benchmarks.shapes.recipe.state import StageState, TrainingClock, shipped_checkpoint  # noqa: E402
from anyflow_rt.benchmarks.shapes.recipe.text import encode_prompts, new_text_encoder, new_tokenizer  # noqa: E402
from anyflow_rt.benchmarks.shapes.recipe.transformer import new_transformer, rotary_table, velocity  # noqa: E402
from anyflow_rt.benchmarks.shapes.recipe.vae import decode_unclamped, new_vae  # noqa: E402
from anyflow_rt.benchmarks.statistics.wilson import wilson  # noqa: E402


@pytest.fixture(scope="module")
def pipeline() -> "diffusers.AnyFlowPipeline":
    loaded = diffusers.AnyFlowPipeline.from_pretrained(shipped_checkpoint())
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_velocity_equals_diffusers_with_512_prompt_positions() -> None:
    torch.manual_seed(0)
    transformer, encoder = new_transformer().eval(), new_text_encoder().eval()
    tokens = new_tokenizer()(["a small red circle moving left", "rising", ""], padding=True, return_tensors="pt")
    latents, start, end = torch.randn(3, 5, 16, 8, 8), torch.tensor([1.0, 0.5, 0.2]), torch.tensor([0.0, 0.5, 0.1])
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        prompt, bias = encode_prompts(encoder, tokens.input_ids, tokens.attention_mask)
        quick = velocity(transformer, latents, start, end, prompt, bias, rotary_table(transformer, 5, 4, 4))
        slow = transformer(
            latents,
            (1000 * start)[:, None].expand(3, 5),
            (1000 * end)[:, None].expand(3, 5),
            torch.nn.functional.pad(prompt, (0, 0, 0, 512 - prompt.shape[1])),
        ).sample
    assert float((quick - slow).norm() / slow.norm()) < 1e-5


def test_decoding_unclamped_equals_decoding_inside_the_clamp() -> None:
    torch.manual_seed(1)
    vae, latents = new_vae().eval(), 0.1 * torch.randn(1, 16, 3, 4, 4)
    with torch.no_grad():
        assert torch.allclose(decode_unclamped(vae, latents).clamp(-1, 1), vae.decode(latents).sample, atol=1e-5)


def test_sample_and_decode_equal_the_pipeline(pipeline: "diffusers.AnyFlowPipeline") -> None:
    prompts = [prompt for prompt, _ in held_out_prompts(2)]
    seeds = [FIRST_SEED, FIRST_SEED + 1]
    options = {"num_inference_steps": 4, "num_frames": 17, "height": 64, "width": 64}
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    latents = sample(pipeline, prompts, seeds, 4)
    reference = pipeline(prompts, generator=generators, output_type="latent", **options).frames.transpose(1, 2)
    assert float((latents - reference).norm() / reference.norm()) < 1e-4
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    frames = pipeline(prompts, generator=generators, output_type="np", **options).frames
    assert np.abs(decode(pipeline, latents) / 255.0 - frames).max() <= 1 / 255


@pytest.mark.parametrize("text", ["", "A RED circle!", "🦊 狐 \x00 &amp;", "word " * 2000, "a,b"])
def test_the_shipped_tokenizer_takes_any_text(text: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(Path(shipped_checkpoint()) / "tokenizer")
    tokens = tokenizer(text, padding="max_length", max_length=512, truncation=True)
    ids, mask = tokens.input_ids, tokens.attention_mask
    assert len(ids) == 512 and ids[sum(mask) - 1] == 1 and not any(ids[sum(mask) :])


def test_the_shipped_checkpoint_is_small_enough() -> None:
    size = sum(path.stat().st_size for path in shipped_checkpoint().rglob("*") if path.is_file())
    assert size <= 20e6


def test_parameters_of_the_transformer(pipeline: "diffusers.AnyFlowPipeline") -> None:
    assert sum(parameter.numel() for parameter in pipeline.transformer.parameters()) <= 3_000_000


def test_checkpoints_replace_each_other_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYFLOW_RT_WORK", str(tmp_path))
    state = StageState("vae")
    assert state.load() is None
    for step in (1, 2):
        state.save({"step": step, "weights": torch.arange(step)})
    loaded = state.load()
    assert loaded is not None and loaded["step"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["vae.pt"]


def test_the_clock_counts_work_and_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = iter([10.0, 12.0, 100.0, 110.0, 111.0])
    monkeypatch.setattr("time.process_time", lambda: next(cpu))
    clock = TrainingClock(budget=10.0, spent=1.0)
    assert clock.tick() == 1.0
    assert clock.tick() == 20.0, "a pause in which CPU time ran on is cut"
    assert clock.progress == 1.0
    clock.skip()
    assert clock.tick() == 0.5


def test_wilson_interval() -> None:
    low, high = wilson(230, 256)
    assert 0.85 < low < 230 / 256 < high < 0.93
