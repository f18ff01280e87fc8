"""Packaging of anyflow-rt.

The top-level folders ``kernels/``, ``engines/`` and ``benchmarks/`` are installed as ``anyflow_rt.kernels``,
``anyflow_rt.engines`` and ``anyflow_rt.benchmarks``: a top-level package called ``kernels`` would shadow the one
that transformers imports. Everything declarative is in ``pyproject.toml``; the mapping is computed here because
every subpackage must be listed by its installed name.
"""

from setuptools import find_namespace_packages, setup

MAPPED_FOLDERS = ("kernels", "engines", "benchmarks")


def mapped_packages() -> tuple[list[str], dict[str, str]]:
    """Installed package names, and the folder each top-level one is taken from."""
    packages = ["anyflow_rt"] + [f"anyflow_rt.{name}" for name in _packages("anyflow_rt")]
    folders = {"anyflow_rt": "anyflow_rt"}
    for folder in MAPPED_FOLDERS:
        packages.append(f"anyflow_rt.{folder}")
        packages += [f"anyflow_rt.{folder}.{name}" for name in _packages(folder)]
        folders[f"anyflow_rt.{folder}"] = folder
    return packages, folders


def _packages(folder: str) -> list[str]:
    """Folders of data count as well: setuptools wants every folder that it installs to be named."""
    return find_namespace_packages(folder, exclude=["*__pycache__*"])


PACKAGES, PACKAGE_DIR = mapped_packages()
setup(packages=PACKAGES, package_dir=PACKAGE_DIR)
