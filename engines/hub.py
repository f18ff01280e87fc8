"""Where a checkpoint's files are: a directory, or a repository of the Hugging Face hub and its local cache.

Only what is needed is downloaded, in two steps: configuration files first, so that a checkpoint that is not supported
costs kilobytes, weights afterwards. ``HF_HUB_OFFLINE``, ``HF_HOME`` and ``HF_TOKEN`` work as in huggingface_hub.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from anyflow_rt.engines.paths import check_path
from anyflow_rt.errors import CheckpointError, MissingPackageError, UsageError

CONFIG_PATTERNS = (
    "model_index.json",
    "transformer/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Source:
    """``id`` as the user gave it; ``repository`` is None for a plain directory; ``revision`` is a commit if it is not.

    ``path`` holds the files.
    """

    id: str
    path: Path
    repository: str | None = None
    revision: str | None = None

    def fetch(self, patterns: tuple[str, ...]) -> None:
        """Make sure that files matching ``patterns`` are at ``path``, as far as the repository has them."""
        if self.repository is not None:
            _download(self.repository, self.revision, patterns)


def locate(source: str | Path, revision: str | None = None) -> Source:
    """Find ``source`` and fetch its configuration files.

    Raises CheckpointError where there is no such directory or repository, UsageError for a revision of a directory
    or where ``source`` is empty or no path.
    """
    path = check_path("the checkpoint", source, "give a directory or a hub id (owner/name)").expanduser()
    identifier = str(source)
    if path.is_dir():
        if revision is not None:
            raise UsageError(f"revision {revision!r} is for hub ids, but {identifier} is a directory; leave it out")
        return Source(identifier, path.resolve())
    if path.exists():
        raise CheckpointError(
            f"{identifier} is a file; give the directory that holds model_index.json (a pickled .pt or .bin is never "
            "read: convert it to a diffusers directory with safetensors first)"
        )
    if isinstance(source, Path) or not _HUB_ID.fullmatch(identifier):
        raise CheckpointError(
            f"there is no directory {identifier!r}, and it has not the form of a hub id (owner/name); check the path"
        )
    snapshot = _download(identifier, revision, CONFIG_PATTERNS)
    # The cache names a snapshot's folder by its commit; weights then come from the very same one.
    return Source(identifier, snapshot, identifier, snapshot.name)


def _download(repository: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub import constants, errors
    except ImportError:
        raise MissingPackageError("huggingface_hub", "build", f"downloading {repository}") from None
    at = "" if revision is None else f" at revision {revision!r}"
    try:
        return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except errors.GatedRepoError:
        mend = f"accept its terms at https://huggingface.co/{repository} and log in with  hf auth login"
    except errors.RepositoryNotFoundError:
        mend = (
            "the hub has no such repository, and there is no such directory; check the id, or log in if it is private"
        )
    except errors.RevisionNotFoundError:
        mend = "the repository has no such revision; name a branch, tag or commit that exists"
    except errors.HFValidationError:
        mend = "this is no valid hub id (owner/name) and no existing directory; check it"
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        if constants.is_offline_mode():
            mend = "it is not, or only in part, in the local cache, and HF_HUB_OFFLINE is set; unset it to download"
        else:
            mend = (
                "it is not, or only in part, in the local cache, and the hub cannot be reached; check the network, or "
                "the path if a directory was meant"
            )
    except (errors.HTTPError, errors.XetDownloadError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        mend = f"{reason}; check network, disk space and permissions, then try again"
    raise CheckpointError(f"cannot get {repository}{at} from the hub: {mend}")
