"""Tensors of one network of a checkpoint, read lazily from safetensors files.

A ``WeightReader`` opens nothing but headers until a tensor is asked for, and tensors are views of the mapped file: a
network larger than memory can be read one layer at a time. Pickled files (.bin, .pt ...) are never opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from anyflow_rt.engines.checkpoint_file import read_json
from anyflow_rt.engines.checkpoint_parts import located
from anyflow_rt.engines.checkpoint_shapes import NetworkTensors, Shape
from anyflow_rt.errors import CheckpointError, MissingPackageError

if TYPE_CHECKING:
    import torch

Weights = Mapping[str, "torch.Tensor"]
"""A network's tensors by their names in the checkpoint; a ``WeightReader`` reads each when it is asked for."""

PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""safetensors' names of the dtypes that are read; a quantised checkpoint is refused."""

BASE_NAMES = {
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
"""What diffusers and transformers call the weight file of each network."""


def weight_patterns(component: str, *, variants: bool) -> tuple[str, ...]:
    """Patterns of the weight files of ``component``, for a download; precision variants only where asked for."""
    base = f"{component}/{BASE_NAMES[component]}"
    if variants:
        return (f"{base}.*.safetensors", f"{base}.*-of-*.safetensors", f"{base}.safetensors.index.*.json")
    return (f"{base}.safetensors", f"{base}-*-of-*.safetensors", f"{base}.safetensors.index.json")


def find_weight_files(folder: Path, component: str) -> tuple[Path, ...]:
    """The safetensors file of a network, or its index followed by its shards.

    Where both are there, diffusers takes the index and transformers the single file; so does this. A precision
    variant (``….fp16.safetensors``) is taken only where there is no plain file, and only if it is the only one.
    Raises CheckpointError where nothing can be read.
    """
    folder, base = located(folder, component), BASE_NAMES[component]
    candidates = [folder / f"{base}.safetensors.index.json", folder / f"{base}.safetensors"]
    if component == "text_encoder":
        candidates.reverse()
    chosen = [path for path in candidates if path.is_file()][:1]
    if not chosen:
        indices = sorted(folder.glob(f"{base}.safetensors.index.*.json"))
        single = sorted(path for path in folder.glob(f"{base}.*.safetensors") if "-of-" not in path.name)
        chosen = indices + [path for path in single if not any(_variant(path) == _variant(index) for index in indices)]
    if len(chosen) > 1:
        raise CheckpointError(
            f"{folder} has the precision variants {', '.join(path.name for path in chosen)} and no plain weights; "
            f"remove all but one, or rename one to {base}.safetensors"
        )
    if not chosen:
        raise CheckpointError(_nothing_to_read(folder, base))
    return tuple(chosen) if chosen[0].suffix == ".safetensors" else (chosen[0], *_shards(chosen[0]))


def _variant(path: Path) -> str:
    return path.name.removesuffix(".json").removesuffix(".safetensors").rsplit(".", 1)[-1]


def _nothing_to_read(folder: Path, base: str) -> str:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    pickled = [name for name in names if name.endswith(PICKLED_SUFFIXES)]
    if pickled:
        return (
            f"{folder} has only the pickled weights {', '.join(pickled)}, and pickled files are never read; save the "
            "checkpoint again with safe_serialization=True"
        )
    return f"{folder} has no {base}.safetensors (nor an index of shards); download or export the checkpoint again"


def _shards(index: Path) -> tuple[Path, ...]:
    mapping = read_json(index).get("weight_map")
    if not isinstance(mapping, dict) or not mapping or not all(isinstance(name, str) for name in mapping.values()):
        raise CheckpointError(f"{index} has no weight_map of tensors to files; download the checkpoint again")
    names = sorted(set(mapping.values()))
    for name in names:
        if PurePosixPath(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index} names {name!r}, which is no safetensors file beside it; refused")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index.parent / name} is missing, but {index.name} names it; download it again")
    return tuple(index.parent / name for name in names)


class WeightReader(Weights):
    """The tensors of one network by name; a mapping, so it goes wherever a state dict does.

    ``files`` are those of ``find_weight_files``. Opening raises CheckpointError for a damaged file; ``check`` compares
    names, shapes and dtypes with ``tensors``. Iteration leaves out what the network never reads; a name that is not
    there raises CheckpointError, not KeyError.
    """

    def __init__(self, component: str, files: tuple[Path, ...], tensors: NetworkTensors) -> None:
        self.component = component
        self._expected = tensors
        self._slices: dict[str, tuple[Path, Any]] = {}
        index = next((path for path in files if path.suffix == ".json"), None)
        for path in files:
            if path != index:
                handle = _open(path, "np")
                self._slices.update(dict.fromkeys(handle.keys(), (path, handle)))
        self._readers: dict[Path, Any] = {}
        if index is not None:
            self._check_index(index)
        self._folder = files[0].parent

    def _check_index(self, index: Path) -> None:
        for name, file in read_json(index)["weight_map"].items():
            if name not in self._slices:
                raise CheckpointError(
                    f"{index} says that tensor {name!r} is in {file}, but it is not; download the checkpoint again"
                )

    def names(self) -> list[str]:
        """Names of the tensors that are read, sorted; of tied ones, the stored name."""
        return sorted(name for name in self._slices if not name.startswith(self._expected.ignored))

    def shape(self, name: str) -> Shape:
        """Shape of a tensor, from the header."""
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        """Stored dtype of a tensor, from the header. CheckpointError for one that is not read."""
        import torch

        return getattr(torch, self._dtype_name(name))

    def _dtype_name(self, name: str) -> str:
        """PyTorch's name of the stored dtype, without PyTorch: looking at a checkpoint must not take seconds."""
        stored = self._slice(name).get_dtype()
        if stored not in DTYPES:
            raise CheckpointError(
                f"{self._where(name)}: tensor {name!r} is stored as {stored}; supported: {', '.join(DTYPES)} "
                "(save the checkpoint without quantisation)"
            )
        return DTYPES[stored]

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor in its stored dtype: a view of the mapped file, not to be written to."""
        path, _ = self._slices[self._stored_name(name)]
        if path not in self._readers:
            self._readers[path] = _open(path, "pt")
        try:
            return self._readers[path].get_tensor(self._stored_name(name))
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error}); check the disk, or download it again") from None

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._slices or any(
            required == name and other in self._slices for other, required in self._expected.tied.items()
        )

    def check(self) -> None:
        """Compare with what the configuration implies, by headers alone (but for tied tensors stored twice).

        Raises CheckpointError naming the first tensor that is missing, of the wrong shape, unknown or of a dtype that
        is not read, and how many more there are; and where tied tensors differ.
        """
        required, tied = self._expected.required, self._expected.tied
        stored = self.names()
        stand_ins = {tied.get(name, name) for name in stored}
        problems = [f"tensor {name!r} {_text(required[name])} is missing" for name in required if name not in stand_ins]
        for name in stored:
            shape = required.get(tied.get(name, name))
            if shape is None:
                problems.append(f"tensor {name!r} {_text(self.shape(name))} is not part of the network")
            elif self.shape(name) != shape:
                problems.append(f"tensor {name!r} has shape {_text(self.shape(name))}, not {_text(shape)}")
        if problems:
            more = f" (and {len(problems) - 1} more such)" if len(problems) > 1 else ""
            raise CheckpointError(
                f"{self._folder} does not fit its config.json: {problems[0]}{more}; weights and configuration must "
                "come from the same checkpoint"
            )
        for name in stored:
            self._dtype_name(name)
        for other, name in tied.items():
            if other in self._slices and name in self._slices and not self[other].equal(self[name]):
                raise CheckpointError(
                    f"{self._folder}: tensors {other!r} and {name!r} stand for one and the same but differ; remove one"
                )

    def _slice(self, name: str) -> Any:
        stored = self._stored_name(name)
        return self._slices[stored][1].get_slice(stored)

    def _stored_name(self, name: str) -> str:
        if name in self._slices:
            return name
        for other, required in self._expected.tied.items():
            if required == name and other in self._slices:
                return other
        raise CheckpointError(f"{self._folder} has no tensor {name!r}; download or export the checkpoint again")

    def _where(self, name: str) -> Path:
        return self._slices[self._stored_name(name)][0]


def _open(path: Path, framework: str) -> Any:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingPackageError("safetensors", "build", "reading a checkpoint's weights") from error
    try:
        return safe_open(path, framework=framework)
    except PermissionError:
        raise CheckpointError(f"{path} cannot be read; check its permissions") from None
    except (SafetensorError, OSError, ValueError) as error:
        with path.open("rb") as file:
            start = file.read(64)
        if start.startswith(b"version https://git-lfs"):
            raise CheckpointError(f"{path} is a Git LFS pointer, not the weights; run  git lfs pull") from None
        size = path.stat().st_size
        raise CheckpointError(
            f"{path} is truncated or damaged ({size} bytes: {error}); download or export it again"
        ) from None


def _text(shape: Shape) -> str:
    return f"[{', '.join(map(str, shape))}]"
