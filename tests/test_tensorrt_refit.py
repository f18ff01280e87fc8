"""Engines without weights: where these are found again, and what is said where they are not. On a GPU: tests/gpu."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.bundles import random_bundle

from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.tensorrt.package import ENTERPRISE, RTX, import_package
from anyflow_rt.engines.tensorrt.record import EngineFacts
from anyflow_rt.engines.tensorrt.refit import bundle_graph, refit_from, require_graph_packages, typed_graph
from anyflow_rt.engines.tensorrt.settings import TensorRtSettings
from anyflow_rt.engines.typed.graph import write_typed_graph
from anyflow_rt.errors import EngineError, MissingPackageError

FACTS = EngineFacts(ENTERPRISE, "11.4.0", "sm_90", "bf16", asdict(TensorRtSettings(strip=True)), {})
ENGINE = "engines/sm_90/tensorrt-bf16-9x64x64"


def test_the_graph_is_the_one_that_was_built_from(tmp_path: Path) -> None:
    bundle = Bundle.open(random_bundle("one_head_one_layer").path)
    source = bundle_graph(bundle.path / ENGINE / "denoiser.engine")
    assert source == bundle.component_path("denoiser")
    built = write_typed_graph("denoiser", source, tmp_path / "denoiser.onnx", "bf16").path
    (tmp_path / "again").mkdir()
    again = typed_graph("denoiser", source, tmp_path / "again", FACTS)
    for file in (built, built.with_name("denoiser.onnx.data")):
        assert (again.parent / file.name).read_bytes() == file.read_bytes()


def test_a_graph_that_is_not_there_is_said(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(random_bundle("one_head_one_layer").path, tmp_path / "bundle"))
    for file in folder.rglob("text_encoder.onnx.data"):
        file.unlink()
    with pytest.raises(EngineError, match=r"\(--strip\) and the graph that has them is not there .*copy onnx/") as said:
        bundle_graph(folder / ENGINE / "text_encoder.engine")
    assert "anyflow-rt build --ckpt" in str(said.value) and "\n" not in str(said.value)


def test_packages_that_read_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnx_ir" else found(name))
    with pytest.raises(MissingPackageError, match=r"built without weights \(--strip\) needs .*anyflow-rt\[build\]"):
        require_graph_packages()


class Refitting:
    """TensorRT as ``refit_from`` sees it: refitter, parser and their answers."""

    def __init__(self, taken: bool = True, missing: tuple[str, ...] = (), refitted: bool = True) -> None:
        self.Refitter = lambda engine, logger: self
        self.OnnxParserRefitter = lambda refitter, logger: self
        self.weights: list[str] = []
        self.num_errors = 0 if taken else 2
        self.get_missing_weights = lambda: list(missing)
        self.refit_cuda_engine = lambda: refitted

    def load_model_proto(self, model: bytes, path: str) -> bool:
        return Path(path).read_bytes() == model

    def load_initializer(self, name: str, address: int, size: int) -> bool:
        self.weights.append(name)
        return address > 0 and size > 0

    def refit_model_proto(self) -> bool:
        return self.num_errors == 0

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(desc=lambda: f"fault {index}", node=lambda: -1)


@pytest.mark.parametrize(
    "answers, words",
    [
        ({}, None),
        ({"taken": False}, r"not take the graph denoiser.onnx: fault 0 at the graph; fault 1 at the graph; .*--force$"),
        ({"missing": ("a", "b", "c", "d")}, r"does not find a, b, c and 1 more in denoiser.onnx; "),
        ({"refitted": False}, r"does not take its weights: it said no reason; "),
    ],
)
def test_every_error_is_shown(answers: dict[str, Any], words: str | None, tmp_path: Path) -> None:
    bundle = Bundle.open(random_bundle("one_head_one_layer").path)
    file = bundle.path / ENGINE / "denoiser.engine"
    graph = typed_graph("denoiser", bundle_graph(file), tmp_path, FACTS)
    trt, logger = Refitting(**answers), SimpleNamespace(errors=["of before"])
    if words is None:
        refit_from(trt, object(), logger, graph, file)
        assert len(trt.weights) > 5
        return
    with pytest.raises(EngineError, match=words) as said:
        refit_from(trt, object(), logger, graph, file)
    assert "--strip" not in str(said.value) and "of before" not in str(said.value)


@pytest.mark.skipif(importlib.util.find_spec(RTX) is None, reason="needs the package tensorrt_rtx")
def test_the_builder_is_asked_for_a_plan_without_weights() -> None:
    from anyflow_rt.engines.tensorrt.compiler import configure
    from anyflow_rt.engines.tensorrt.messages import make_logger

    trt = import_package(RTX)
    builder = trt.Builder(make_logger(trt))
    for settings, flag in ((TensorRtSettings(strip=True), "REFIT_IDENTICAL"), (TensorRtSettings(refit=True), "REFIT")):
        config = builder.create_builder_config()
        configure(trt, config, "sm_89", settings)
        found = {name for name in ("REFIT", "REFIT_IDENTICAL") if config.get_flag(getattr(trt.BuilderFlag, name))}
        assert found == {flag} and config.get_flag(trt.BuilderFlag.STRIP_PLAN) == settings.strip
