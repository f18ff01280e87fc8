"""Where a result goes: checked before any work is done, replaced in one step when all of it is there."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterable
from itertools import product
from pathlib import Path

from anyflow_rt.errors import OutputError, UsageError

EXTENSIONS = (".mp4", ".gif", ".png", ".npy")
STANDARD_OUTPUT = "-"
"""What a stream goes to in place of a file."""
ONE_FILE_A_VIDEO = (".mp4", ".gif")
MENDS = {
    errno.ENOSPC: "free some space or name another disk",
    errno.EDQUOT: "free some space or name another disk",
    errno.EFBIG: "make fewer or smaller frames, or name another disk",
    errno.EACCES: "name a directory you may write to",
    errno.EPERM: "name a directory you may write to",
    errno.EROFS: "name a directory you may write to",
    errno.EPIPE: "its reader closed it; whole frames that it read play",
    errno.ENAMETOOLONG: "use a shorter name",
}


def output_error(path: str | Path, error: OSError) -> OutputError:
    """The failed system call as one sentence: the path, the system's reason, what to do."""
    reason, path = error.strerror or str(error), "standard output" if os.fspath(path) == STANDARD_OUTPUT else path
    return OutputError(f"cannot write {path}: {reason}; {MENDS.get(error.errno or 0, 'name another output file')}")


def output_extension(path: str | os.PathLike) -> str:
    """The lower-case extension. Raises ``UsageError`` for one that no writer knows."""
    extension = os.path.splitext(os.fspath(path))[1].lower()
    if extension not in EXTENSIONS:
        raise UsageError(f"output {os.fspath(path)!r} must end in one of {', '.join(EXTENSIONS)}")
    return extension


def output_paths(path: str | os.PathLike, num_videos: int = 1) -> tuple[Path, ...]:
    """The files a run writes.

    Several videos to ``out.mp4`` or ``out.gif`` are ``out-0.mp4``, ``out-1.mp4`` ... in the order of the prompts, the
    numbers padded with zeros so that they sort. Several videos share one ``.png`` (a row each) and one ``.npy``.
    """
    extension, final = output_extension(path), Path(path)
    if num_videos == 1 or extension not in ONE_FILE_A_VIDEO:
        return (final,)
    digits = len(str(num_videos - 1))
    return tuple(final.with_name(f"{final.stem}-{index:0{digits}}{final.suffix}") for index in range(num_videos))


def check_output(path: str | os.PathLike, num_videos: int = 1) -> tuple[Path, ...]:
    """The files a run would write, after making sure that it can; nothing is left behind.

    Raises ``UsageError`` for an unknown extension, and ``OutputError`` for a directory, a missing parent, something
    that is not a regular file, a file or directory that may not be written, a name the file system refuses.
    """
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path) or "\0" in str(path):
        raise UsageError(f"output must be the path of a file, not {path!r}")
    if os.path.isdir(path):
        inside = os.path.join(path, "out.mp4")
        raise OutputError(f"output {os.fspath(path)!r} is a directory: name a file, such as {inside!r}")
    paths = output_paths(path, num_videos)
    for final in paths:
        _check_final(final)
    probe = OutputFile(paths[0])
    try:
        probe.create()
    finally:
        probe.discard()
    return paths


def check_apart(paths: Iterable[str | os.PathLike], given: Iterable[object]) -> None:
    """Raise UsageError where one of ``paths`` is a file that is ``given``, under whatever name; arrays are none."""
    for path, source in product(paths, given):
        if isinstance(source, str | os.PathLike) and _is_same(path, source):
            raise UsageError(
                f"output {os.fspath(path)!r} is {os.fspath(source)!r}, which the video begins with; name another output"
            )


def _is_same(path: str | os.PathLike, other: str | os.PathLike) -> bool:
    try:
        return os.path.samefile(path, other)
    except (OSError, ValueError):
        return False


def _check_final(final: Path) -> None:
    try:
        status = os.stat(final)
    except FileNotFoundError:
        parent = Path(os.path.realpath(final)).parent
        if not parent.exists():
            raise OutputError(f"cannot write {final}: there is no directory {parent}; make it first") from None
        return
    except OSError as error:
        raise output_error(final, error) from error
    if stat.S_ISDIR(status.st_mode):
        raise OutputError(f"cannot write {final}: it is a directory; name a file")
    if not stat.S_ISREG(status.st_mode):
        raise OutputError(f"cannot write {final}: it is not a regular file; name another output file")
    if not os.access(final, os.W_OK):
        raise OutputError(f"cannot write {final}: the file is there and read-only; make it writable or name another")


class OutputFile:
    """A file in the making: a hidden sibling of ``path``, which ``commit`` moves over it in one step.

    A symbolic link is followed: the file it points to is replaced, the link stays. An existing file's mode is kept.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._final = Path(os.path.realpath(path))
        self.temporary = self._final.with_name(f".anyflow-{os.getpid()}-{secrets.token_hex(4)}.tmp")

    def create(self) -> None:
        """Make the empty temporary file. Raises ``OutputError``."""
        _unfinished.add(self)
        try:
            descriptor = os.open(self.temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
            try:
                if self._final.exists():
                    os.fchmod(descriptor, self._final.stat().st_mode & 0o777)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise output_error(self.path, error) from error

    def commit(self) -> None:
        """Replace ``path`` by what was written. Raises ``OutputError``."""
        try:
            os.replace(self.temporary, self._final)
        except OSError as error:
            raise output_error(self.path, error) from error
        _unfinished.discard(self)

    def discard(self) -> None:
        """Remove the temporary file, if there is one."""
        self.temporary.unlink(missing_ok=True)
        _unfinished.discard(self)


_unfinished: set[OutputFile] = set()


def discard_unfinished() -> None:
    """Remove every temporary file of this process, for one that is about to end.

    Ctrl-C may strike between any two instructions, also where no writer is responsible for its file yet.
    """
    for file in list(_unfinished):
        file.discard()
