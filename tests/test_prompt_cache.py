"""Prompt embeddings on disk: the same results, no text encoder, and no harm from whatever is in the folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import random_bundle
from support.commands import fails

import anyflow_rt
from anyflow_rt import prompt_cache
from anyflow_rt.cli.main import main
from anyflow_rt.engines import registry
from anyflow_rt.errors import UsageError
from anyflow_rt.prompt import TokenBatch
from anyflow_rt.prompt_cache import SUFFIX, PromptCache

SIZE: dict[str, Any] = {"height": 64, "width": 64, "num_frames": 5, "max_sequence_length": 32, "steps": 1, "seed": 3}
PROMPTS = ["a red circle", "the small green square moves slowly left"]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the components that are opened."""
    names: list[str] = []
    open_engine = registry.open_engine

    def noted(name: str, path: Path, **options: Any) -> Any:
        names.append(Path(path).stem)
        return open_engine(name, path, **options)

    monkeypatch.setattr(registry, "open_engine", noted)
    return names


def latents(folder: Path | None, prompt: Any, **options: Any) -> np.ndarray:
    bundle = random_bundle("one_head_one_layer").path
    residency = options.pop("residency", None)
    with anyflow_rt.load(bundle, engine="onnxruntime", prompt_cache=folder, residency=residency) as runtime:
        return runtime.generate(prompt, output="latents", **{**SIZE, **options}).latents


def test_a_known_prompt_needs_no_text_encoder(tmp_path: Path, opened: list[str]) -> None:
    folder = tmp_path / "prompts"
    wanted = latents(None, PROMPTS)
    assert np.array_equal(latents(folder, PROMPTS), wanted)
    assert len(list(folder.glob(f"*{SUFFIX}"))) == 2 and opened.count("text_encoder") == 2
    opened.clear()
    assert np.array_equal(latents(folder, PROMPTS), wanted)
    assert "text_encoder" not in opened and "denoiser" in opened
    # One of a batch is as good as the batch was: a shorter one only loses its padding.
    np.testing.assert_allclose(latents(folder, PROMPTS[0]), wanted[:1], rtol=0, atol=1e-4)
    assert "text_encoder" not in opened
    latents(folder, PROMPTS[0], negative_prompt="the blue square", guidance_scale=2.0)
    assert opened.count("text_encoder") == 1, "the negative prompt is new"


def test_one_stage_at_a_time_gives_the_same(opened: list[str]) -> None:
    bundle = random_bundle("one_head_one_layer").path
    with anyflow_rt.load(bundle, engine="onnxruntime", residency="sequential") as runtime:
        assert sorted(opened) == ["conditioner", "text_encoder"], "the others come when their stage does"
        first, second = (runtime.generate(PROMPTS[0], **SIZE) for _ in range(2))
        assert opened.count("denoiser") == opened.count("text_encoder") == 2
        assert not runtime._components._futures.keys() & {"denoiser", "time_embedder", "text_encoder"}
    with anyflow_rt.load(bundle, engine="onnxruntime") as runtime:
        assert np.array_equal(runtime.generate(PROMPTS[0], **SIZE).frames, first.frames)
    assert np.array_equal(first.frames, second.frames)
    with pytest.raises(UsageError, match="streaming is for TensorRT engines, and onnxruntime runs; take sequential"):
        anyflow_rt.load(bundle, engine="onnxruntime", residency="streaming")
    with pytest.raises(UsageError, match="unknown residency 'none'; choose from resident, sequential, streaming"):
        anyflow_rt.load(bundle, engine="onnxruntime", residency="none")


def test_damaged_entries_are_made_again(tmp_path: Path, opened: list[str], caplog: pytest.LogCaptureFixture) -> None:
    wanted = latents(tmp_path, PROMPTS[0])
    (entry,) = tmp_path.glob(f"*{SUFFIX}")
    whole = entry.read_bytes()
    for damage in (b"", whole[:40], whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b"x" * 100):
        entry.write_bytes(damage)
        opened.clear()
        caplog.clear()
        assert np.array_equal(latents(tmp_path, PROMPTS[0]), wanted)
        assert "text_encoder" in opened and entry.read_bytes() == whole
        assert [record.message for record in caplog.records if "damaged; the prompt is encoded again" in record.message]


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    bundle = random_bundle("one_head_one_layer").path
    with anyflow_rt.load(bundle, engine="onnxruntime", prompt_cache=tmp_path / "file") as runtime:
        for prompt in PROMPTS:
            runtime.generate(prompt, output="latents", **SIZE)
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len([line for line in said if "prompt embeddings are not kept" in line]) == 1, said
    with pytest.raises(UsageError, match="the prompt cache is ''; give a directory, or leave it out"):
        anyflow_rt.load(bundle, engine="onnxruntime", prompt_cache="")


def test_the_folder_keeps_to_its_limit(tmp_path: Path) -> None:
    """The entries used longest ago go; reading one is using it."""
    cache = PromptCache(tmp_path, "encoder", "onnxruntime", "fp32", 4, limit=3 * 400)
    batches = [TokenBatch(np.arange(12)[None] + step, np.ones((1, 12), np.int64)) for step in range(4)]
    for age, batch in enumerate(batches[:3]):
        cache.store(batch, np.full((1, 12, 4), age, np.float32))
        os.utime(cache.path_of(batch.input_ids[0]), (age, age))
    assert (cache.load(batches[0]) == 0).all()
    cache.store(batches[3], np.full((1, 12, 4), 3, np.float32))
    assert [cache.load(batch) is None for batch in batches] == [False, True, False, False]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3 * 400


def test_what_an_entry_depends_on(tmp_path: Path) -> None:
    ids = [3, 4, 1]
    paths = {
        PromptCache(tmp_path, encoder, engine, precision, 4).path_of(tokens)
        for encoder in ("one", "two")
        for engine in ("openvino", "onnxruntime")
        for precision in ("fp32", "bf16")
        for tokens in (ids, ids[:2])
    }
    assert len(paths) == 16
    assert prompt_cache.LIMIT == 1 << 30


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], opened: list[str]) -> None:
    bundle = random_bundle("one_head_one_layer").path
    command = ["run", "--bundle", str(bundle), "--prompt", PROMPTS[0], "--engine", "onnxruntime", "--steps", "1"]
    command += ["--num-frames", "5", "--output", str(tmp_path / "out.npy"), "--prompt-cache", str(tmp_path / "p")]
    assert main(command) == 0
    first = (tmp_path / "out.npy").read_bytes()
    opened.clear()
    assert main(command) == 0
    assert "text_encoder" not in opened and (tmp_path / "out.npy").read_bytes() == first
    fails(capsys, [*command, "--residency", "everywhere"], "unknown residency 'everywhere'", code=2)
