"""Every name of TensorRT that the code uses exists in both packages' real bindings."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.tensorrt_bindings import missing

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "engines/tensorrt").glob("*.py"))
ONLY_RTX = {"ComputeCapability", "CudaGraphStrategy", "DynamicShapesKernelSpecializationStrategy"}
"""Used behind ``hasattr``, which is how the code tells the two packages apart."""
RTX_ATTRIBUTES = {"num_compute_capabilities", "set_compute_capability", "create_runtime_cache", "set_runtime_cache"}
RTX_ATTRIBUTES |= {"cuda_graph_strategy", "dynamic_shapes_kernel_specialization_strategy"}
OBJECTS = {
    "builder": ("Builder",),
    "config": ("IBuilderConfig", "IRuntimeConfig"),
    "network": ("INetworkDefinition",),
    "_parser": ("OnnxParser",),
    "parser": ("OnnxParser",),
    "parser_refitter": ("OnnxParserRefitter",),
    "refitter": ("Refitter",),
    "profile": ("IOptimizationProfile",),
    "engine": ("ICudaEngine",),
    "_engine": ("ICudaEngine",),
    "_context": ("IExecutionContext",),
    "context": ("IExecutionContext",),
    "_common": ("IExecutionContext",),
    "chosen": ("IExecutionContext",),
    "_runtime": ("Runtime",),
    "_runtime_cache": ("IRuntimeCache",),
    "tensor": ("ITensor",),
    "error": ("ParserError",),
}
"""What variables of these names hold, in the files that talk to TensorRT."""
TALKING = {"compiler.py", "network.py", "device.py", "contexts.py", "runtime_cache.py", "memory.py", "runner.py"}
TALKING |= {"refit.py"}
PLUGIN = "plugin."
"""What begins so is of the module ``tensorrt.plugin``, which the enterprise package alone has."""


def names_used() -> tuple[set[str], set[tuple[str, str]]]:
    """``a.b`` of every ``trt.a.b``, and (variable, attribute) of what is called on TensorRT's objects."""
    from_package: set[str] = set()
    on_objects: set[tuple[str, str]] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Attribute):
                continue
            dotted = ast.unparse(node)
            start = next((prefix for prefix in ("self._trt.", "trt.") if dotted.startswith(prefix)), None)
            if path.name == "plugins.py":
                name = dotted.removeprefix("self._")
                from_package |= {name} if name.startswith(PLUGIN) and name.count(".") == 1 else set()
            if start is not None and dotted.replace(".", "").replace("_", "").isalnum():
                from_package.add(dotted.removeprefix(start))
            elif path.name in TALKING and isinstance(node.value, ast.Name | ast.Attribute):
                holder = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
                on_objects |= {(holder, node.attr)} if holder in OBJECTS else set()
    return from_package, on_objects


CHECK = """
import json, sys
names, kinds = json.loads(sys.argv[2])
if sys.argv[1] == "tensorrt":
    from support.tensorrt_bindings import load
    trt = load()
else:
    import tensorrt_rtx as trt
def has(name):
    value = trt
    for part in name.split("."):
        value = getattr(value, part, None)
    return value is not None
absent = [name for name in names if not has(name)]
for attribute, classes in kinds:
    if not any(hasattr(getattr(trt, name, None), attribute) for name in classes):
        absent.append("/".join(classes) + "." + attribute)
print(json.dumps(absent))
"""


@pytest.mark.parametrize("package", ["tensorrt", "tensorrt_rtx"])
def test_names_exist(package: str) -> None:
    if package == "tensorrt" and (why := missing()):
        pytest.skip(why)
    if package == "tensorrt_rtx" and importlib.util.find_spec(package) is None:
        pytest.skip("needs the package tensorrt_rtx: pip install 'anyflow-rt[tensorrt-rtx]'")
    names, attributes = names_used()
    assert len(names) > 15 and len(attributes) > 30, "the search for names finds little"
    assert sum(name.startswith(PLUGIN) for name in names) > 6
    wanted = [
        name
        for name in names
        if (package == "tensorrt_rtx" or name.split(".")[0] not in ONLY_RTX)
        and (package == "tensorrt" or not name.startswith(PLUGIN))
    ]
    attributes |= {("parser_refitter", name) for holder, name in attributes if holder == "parser"}  # it is given as one
    kinds = [
        (attribute, OBJECTS[holder])
        for holder, attribute in sorted(attributes)
        if package == "tensorrt_rtx" or (attribute not in RTX_ATTRIBUTES and holder != "_runtime_cache")
    ]
    command = [sys.executable, "-P", "-c", CHECK, package, json.dumps([wanted, kinds])]
    done = subprocess.run(command, cwd=ROOT / "tests", env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "tests")}


def test_compute_capabilities_are_our_targets() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    from anyflow_rt.engines.tensorrt.package import PACKAGE_TARGETS, RTX

    known = {name for name in trt.ComputeCapability.__members__ if name.startswith("SM")}
    assert known == {target.upper().replace("_", "") for target in PACKAGE_TARGETS[RTX]}
