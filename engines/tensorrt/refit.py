"""Engines without weights: given those of their bundle's graph once they are loaded, before anything is executed.

``anyflow-rt build --strip`` leaves the weights out of an engine's file. They are in the bundle already, as the float32
graph's; the typed graph that the engine was built from is made of it again, the same passes giving the same names and
numbers, and TensorRT's own refitter reads it, its weights mapped.

Not yet run on a GPU.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from anyflow_rt.engines.bundle import Bundle, read_manifest
from anyflow_rt.engines.bundle_files import size_fault
from anyflow_rt.engines.mend import rebuild_command
from anyflow_rt.engines.tensorrt.mending import engine_mend
from anyflow_rt.engines.tensorrt.messages import summary
from anyflow_rt.engines.tensorrt.network import complaint, give_graph
from anyflow_rt.engines.tensorrt.record import EngineFacts
from anyflow_rt.engines.typed.graph import write_typed_graph
from anyflow_rt.errors import EngineError, MissingPackageError

_DEPTH = 3
"""Folders between a bundle and an engine's file: engines/<target>/<engine>-<precision>-<profile>/."""


def refit(trt: ModuleType, engine: Any, logger: Any, file: Path, facts: EngineFacts) -> None:
    """Give ``engine``, loaded from the plan ``file``, its weights. logger: of ``make_logger``.

    Takes the disk of one typed graph below the temporary directory meanwhile. Raises EngineError, with the mend, where
    the bundle's graph is missing, the disk is full, or TensorRT does not take the weights, with every error it told;
    MissingPackageError without the packages that read graphs.
    """
    require_graph_packages()
    source = bundle_graph(file)
    try:
        with tempfile.TemporaryDirectory(prefix="anyflow-rt-refit-") as folder:
            graph = typed_graph(file.stem, source, Path(folder), facts)
            refit_from(trt, engine, logger, graph, file)
    except OSError as failure:
        raise EngineError(
            f"the weights of {file} cannot be written to {tempfile.gettempdir()} ({failure.strerror}); free some space "
            "there, or set TMPDIR to another directory"
        ) from failure


def require_graph_packages() -> None:
    """Raise MissingPackageError unless what typed graphs are made with is installed."""
    for package in ("onnx", "onnx_ir"):
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(package, "build", "an engine that was built without weights (--strip)")


def bundle_graph(file: Path) -> Path:
    """The graph that the engine ``file`` was made of. Raises EngineError where it, or a file of its weights, is not
    there as the bundle's manifest says it."""
    folder = file.absolute().parents[_DEPTH]
    bundle = Bundle(folder, read_manifest(folder))
    graph = bundle.component_path(file.stem)
    record = next(each for each in bundle.manifest.components if each.name == file.stem)
    for each in record.files:
        if fault := size_fault(folder, each):
            raise EngineError(
                f"{file} was built without weights (--strip) and the graph that has them is not there ({fault}); copy "
                f"{graph.parent.name}/ of the bundle too, or make it again with  {rebuild_command(folder)}"
            )
    return graph


def typed_graph(component: str, source: Path, folder: Path, facts: EngineFacts) -> Path:
    """The graph that the engine was built from, made again in ``folder``."""
    settings = facts.settings
    return write_typed_graph(
        component,
        source,
        folder / f"{component}.onnx",
        facts.precision,
        settings["cross_keys"],
        settings["triton_kernels"],
    ).path


def refit_from(trt: ModuleType, engine: Any, logger: Any, graph: Path, file: Path) -> None:
    """Take the weights of the typed ``graph``; none may be missing. Raises EngineError with every error."""
    logger.errors.clear()
    refitter = trt.Refitter(engine, logger)
    parser_refitter = trt.OnnxParserRefitter(refitter, logger)
    whose = f"the engine {file} was built without weights and does"
    pages = give_graph(parser_refitter, graph, logger, whose)
    if not parser_refitter.refit_model_proto():
        raise EngineError(f"{complaint(parser_refitter, graph, logger, whose)}; or {engine_mend(file, strip=False)}")
    if missing := refitter.get_missing_weights():
        some = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise EngineError(f"{whose} not find {some} in {graph.name}; {engine_mend(file, strip=False)}")
    if not refitter.refit_cuda_engine():
        raise EngineError(f"{whose} not take its weights: {summary(logger.errors)}; {engine_mend(file, strip=False)}")
    del parser_refitter, pages
