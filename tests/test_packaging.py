"""What is installed is what is in the repository, under one name, and importing it costs what it must."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock
from support.bundles import session_directory

from anyflow_rt import __version__
from anyflow_rt.cli.main import VERBS, parser

ROOT = Path(__file__).parents[1]
FOLDERS = {"anyflow_rt": "anyflow_rt"} | {name: f"anyflow_rt/{name}" for name in ("kernels", "engines", "benchmarks")}
"""Folder in the repository -> place in what is installed."""

HEAVY = {"torch", "diffusers", "transformers", "onnx", "onnxscript", "openvino", "onnxruntime", "tensorrt", "triton"}
LAYERS = ("errors", "kernels", "engines", "runtime", "benchmarks", "cli")
"""From the ground up: a module imports from its own layer and those before it."""


def tracked_files() -> list[str]:
    """The repository's files as they are now, new ones that git does not ignore included."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True)
    return [name for name in done.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


needs_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")


def installed_names() -> set[str]:
    """Where each file of the four folders belongs once installed."""
    parts = (name.split("/", 1) for name in tracked_files() if "/" in name)
    return {f"{FOLDERS[top]}/{rest}" for top, rest in parts if top in FOLDERS}


def python(*arguments: str, cwd: Path, **environment: str | None) -> str:
    """stdout of a Python process. None takes a variable away."""
    variables = {**os.environ, **environment}
    kept = {name: value for name, value in variables.items() if value is not None}
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=kept, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The wheel of the repository as it is now, built beside it so that no old build folder gets in."""
    place = session_directory() / "wheel"
    with FileLock(f"{place}.lock"):
        if not place.exists():
            source = session_directory() / "source"
            for name in tracked_files():
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, source / name)
            options = ("--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check")
            python("-m", "pip", "wheel", *options, "--wheel-dir", str(place), str(source), cwd=source)
    (found,) = place.glob("*.whl")
    return found


@needs_git
def test_our_folders_do_not_shadow_what_transformers_imports() -> None:
    code = (
        "import sys, transformers\n"
        "from transformers import UMT5EncoderModel\n"
        "import anyflow_rt.engines.registry, anyflow_rt.kernels, anyflow_rt.benchmarks\n"
        f"print([n for n in ('kernels', 'engines', 'benchmarks') "
        f"if (getattr(sys.modules.get(n), '__file__', '') or '').startswith({str(ROOT)!r})])"
    )
    assert python("-c", code, cwd=ROOT, PYTHONSAFEPATH="1").split() == ["[]"]


@pytest.mark.skipif(not os.environ.get("PYTHONSAFEPATH"), reason="make sets PYTHONSAFEPATH; this process has not")
def test_this_very_process_has_no_shadowing_folders() -> None:
    assert not {"kernels", "engines", "benchmarks"} & {
        name for name, module in sys.modules.items() if str(getattr(module, "__file__", "")).startswith(str(ROOT))
    }


@needs_git
def test_the_wheel_holds_every_file_once(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    ours = [name for name in names if ".dist-info/" not in name]
    assert len(names) == len(set(names))
    assert set(ours) == installed_names()
    assert "anyflow_rt/data/shapes/transformer/diffusion_pytorch_model.safetensors" in ours


@needs_git
def test_the_installed_wheel_works(wheel: Path, tmp_path: Path) -> None:
    options = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
    python("-m", "pip", "install", *options, "--target", str(tmp_path / "site"), str(wheel), cwd=tmp_path)
    code = (
        "import anyflow_rt, anyflow_rt.kernels, anyflow_rt.engines.registry, anyflow_rt.benchmarks.shapes.world\n"
        "from anyflow_rt.engines.checkpoint import load_checkpoint\n"
        "from anyflow_rt.shipped import SHIPPED\n"
        "assert [load_checkpoint(path).architecture.causal is not None for path in SHIPPED.values()] == [False, True]\n"
        "print(anyflow_rt.engines.__file__, *SHIPPED.values())"
    )
    site = str(tmp_path / "site")
    # -S, then by hand: without the editable install of this checkout, but with the packages beside it.
    packages = os.pathsep.join([site, *(path for path in sys.path if path.endswith("site-packages"))])
    lines = python("-S", "-c", code, cwd=tmp_path, PYTHONPATH=packages).split()
    assert all(line.startswith(site) for line in lines), lines
    script = [sys.executable, "-S", str(tmp_path / "site/bin/anyflow-rt"), "--version"]
    environment = {**os.environ, "PYTHONPATH": packages}
    done = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)
    assert done.stdout == f"anyflow-rt {__version__}\n", done.stderr


def test_the_editable_install_maps_the_folders(tmp_path: Path) -> None:
    code = (
        "import anyflow_rt.cli, anyflow_rt.engines.registry, anyflow_rt.kernels, anyflow_rt.benchmarks.shapes\n"
        "import anyflow_rt\n"
        "for m in (anyflow_rt, anyflow_rt.engines, anyflow_rt.kernels, anyflow_rt.benchmarks): print(m.__file__)"
    )
    for cwd in (tmp_path, ROOT):
        files = python("-c", code, cwd=cwd, PYTHONSAFEPATH="1").split()
        assert [Path(file).parent.name for file in files] == ["anyflow_rt", "engines", "kernels", "benchmarks"]


@pytest.mark.parametrize("safe", ["1", None])
def test_version(safe: str | None, tmp_path: Path) -> None:
    """From the repository's root too, where Python would put the working directory first."""
    for cwd in (ROOT, tmp_path):
        text = python("-m", "anyflow_rt", "--version", cwd=cwd, PYTHONSAFEPATH=safe)
        assert text == f"anyflow-rt {__version__}\n"
    script = [str(Path(sys.executable).with_name("anyflow-rt")), "--version"]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"anyflow-rt {__version__}\n"


def modules() -> dict[str, Path]:
    """Every module of the package by its installed name."""
    found = {}
    for folder, place in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join((Path(place) / path.relative_to(ROOT / folder)).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def layer(name: str) -> int:
    """Which of ``LAYERS`` a module of the package is in."""
    part = [*name.split("."), ""][1]
    return LAYERS.index(part if part in LAYERS else "cli" if part == "__main__" else "runtime")


def imported(path: Path) -> set[str]:
    """Names of the modules of this package that a file imports, anywhere in it but for type checking."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = [
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    ]
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            source = node.module or ""
            found |= {full if (full := f"{source}.{alias.name}") in MODULES else source for alias in node.names}
    return {name for name in found if name.split(".")[0] == "anyflow_rt"}


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_downhill(name: str) -> None:
    assert imported(MODULES[name]) <= set(MODULES), "an import of the package that is not there"
    uphill = {other for other in imported(MODULES[name]) if other != "anyflow_rt" and layer(other) > layer(name)}
    assert not uphill


def test_only_the_installed_spelling_is_used() -> None:
    for path in [*MODULES.values(), *(ROOT / "tests").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"kernels", "engines", "benchmarks"}, path


def test_what_a_run_loads_at_import() -> None:
    """The command, the library and everything they import at their tops; engines only where a bundle is opened."""
    code = (
        "import sys, anyflow_rt.cli.main, anyflow_rt.runtime, anyflow_rt.loading, anyflow_rt.video\n"
        "print(*sorted(sys.modules))"
    )
    loaded = set(python("-c", code, cwd=ROOT, PYTHONSAFEPATH="1").split())
    assert not loaded & (HEAVY | {"safetensors", "huggingface_hub", "scipy", "psutil", "av", "ftfy"})
    code = "import sys, anyflow_rt.cli.main\nprint(*sorted(sys.modules))"
    assert "numpy" not in python("-c", code, cwd=ROOT, PYTHONSAFEPATH="1").split(), "--version should not wait for it"


FLAGS = {
    "build": "--ckpt --revision --out --target --engine --precision --height --width --num-frames --onnx-only "
    "--bundle --text-weights --dry-run --force --check-parity --no-check-parity --calibrate --no-calibrate "
    "--smallest --largest --batch --prompt-lengths --cross-keys --optimization-level --weight-streaming --refit "
    "--strip --version-compatible --hardware --triton-kernels",
    "run": "--prompt --bundle --output --steps --budget --confidence --strict-budget --min-steps --max-steps --preview "
    "--seed --height --width --num-frames --num-videos --image --video --fit --stream --fps-deadline --negative-prompt "
    "--guidance-scale --max-sequence-length --euler --fps --quality --engine --precision --prompt-cache --residency",
    "bench": "--bundle --steps --prompts --num-prompts --seeds --metrics --compare --rounds --jump-videos --euler "
    "--engine --precision --report --resume --from --series part",
    "calibrate": "--bundle --steps --rounds --seconds --openings --height --width --num-frames --engine --precision",
    "inspect": "bundle --verify",
}


def test_flags() -> None:
    """A flag is a promise: adding one is a line here, taking one away breaks somebody's script."""
    assert set(FLAGS) == set(VERBS)
    (verbs,) = (action for action in parser()._actions if hasattr(action, "choices") and action.dest == "verb")
    for verb, made in dict(verbs.choices or {}).items():
        flags = {flag for action in made._actions for flag in action.option_strings or [action.dest]}
        assert flags == {*FLAGS[verb].split(), "--json", "--debug", "-h", "--help"}, verb
