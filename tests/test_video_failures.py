"""Writers: failures leave nothing behind and say what was wrong."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.clips import EXTENSIONS, moving_disc

from anyflow_rt.errors import OutputError, UsageError
from anyflow_rt.video import BackgroundWriter, VideoShape, check_output, open_writer, save_video


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_alone(tmp_path, extension, background, error):
    path = tmp_path / f"out{extension}"
    path.write_text("precious")
    writer = open_writer(path, VideoShape(1, 17, 64, 64))
    with pytest.raises(error), BackgroundWriter(writer) if background else writer as sink:
        sink.write(moving_disc(9))
        raise error
    assert path.read_text() == "precious" and os.listdir(tmp_path) == [path.name]
    with pytest.raises(OutputError, match="given up"):
        writer.close()


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("background", [False, True])
def test_too_few_or_wrong_frames(tmp_path, extension, background):
    path, clip = tmp_path / f"out{extension}", moving_disc()

    def attempt(frames, video=0):
        writer = open_writer(path, VideoShape(1, 17, 64, 64))
        with BackgroundWriter(writer) if background else writer as sink:
            sink.write(frames, video)

    with pytest.raises(OutputError, match="got 16 of its 17"):
        attempt(clip[:16])
    with pytest.raises(UsageError, match="more than the 17"):
        attempt(np.concatenate([clip, clip]))
    with pytest.raises(UsageError, match="float32"):
        attempt(clip.astype(np.float32))
    with pytest.raises(UsageError, match=r"\(17, 32, 64, 3\)"):
        attempt(clip[:, :32])
    with pytest.raises(UsageError, match="no video 1"):
        attempt(clip, 1)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_a_full_disk_is_one_clear_error(tmp_path, extension):
    """A file-size limit stands in for the full disk: the same system calls fail."""
    path = tmp_path / f"out{extension}"
    path.write_text("precious")
    code = (
        "import resource, sys, numpy as np; from anyflow_rt.video import *; from anyflow_rt.errors import OutputError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "clip = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)\n"
        "try:\n"
        "    with BackgroundWriter(open_writer(sys.argv[1], VideoShape(1, 9, 64, 64))) as writer:\n"
        "        for frame in clip: writer.write(frame[None])\n"
        "except OutputError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"cannot write {path}: File too large; ") and done.stdout.count("\n") == 1
    assert path.read_text() == "precious" and os.listdir(tmp_path) == [path.name]


def test_modes_and_links_are_kept(tmp_path):
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "target.npy", tmp_path / "out.npy"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    save_video(link, moving_disc(2))
    assert link.is_symlink() and np.load(target).shape == (2, 64, 64, 3)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    mask = os.umask(0o022)
    try:
        save_video(tmp_path / "new.npy", moving_disc(2))
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "new.npy").stat().st_mode) == 0o644


def test_check_output_accepts_and_leaves_nothing(tmp_path):
    assert check_output(tmp_path / "a.MP4") == (tmp_path / "a.MP4",)
    assert check_output(str(tmp_path / "b.gif"), 2) == (tmp_path / "b-0.gif", tmp_path / "b-1.gif")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["out", "out.avi", "out.mp4.txt", ".mp4", "out.", ""])
def test_unknown_extensions(tmp_path, name):
    for call in (check_output, lambda path: open_writer(path, VideoShape(1, 1, 2, 2))):
        with pytest.raises(UsageError) as error:
            call(str(tmp_path / "x" / name) if name else "")
        assert "\n" not in str(error.value) and (repr(name)[1:-1] in str(error.value))


def test_unwritable_outputs(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe.mp4")
    cases = {
        tmp_path / "folder.mp4": "is a directory",
        tmp_path: "is a directory",
        tmp_path / "missing" / "out.mp4": f"no directory {tmp_path}/missing",
        tmp_path / "file" / "out.mp4": "Not a directory",
        tmp_path / "pipe.mp4": "not a regular file",
        tmp_path / ("x" * 300 + ".mp4"): "File name too long; use a shorter name",
        Path("/proc/out.mp4"): "cannot write /proc/out.mp4",
    }
    for path, words in cases.items():
        with pytest.raises(OutputError) as error:
            check_output(path)
        assert words in str(error.value) and str(path) in str(error.value)
    for path in (None, 3, "nul\0byte.mp4"):
        with pytest.raises(UsageError):
            check_output(path)


def test_read_only_outputs():
    """In a process that is not root, who may write anywhere."""
    code = (
        "import os, tempfile; from anyflow_rt.video import check_output; from anyflow_rt.errors import OutputError\n"
        "if os.geteuid() == 0: os.setresuid(65534, 65534, 65534)\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    open(folder + '/file.mp4', 'w').close(); os.chmod(folder + '/file.mp4', 0o444)\n"
        "    os.mkdir(folder + '/x', 0o555)\n"
        "    for name in ('/file.mp4', '/x/out.mp4'):\n"
        "        try: check_output(folder + name)\n"
        "        except OutputError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert "read-only" in first and "Permission denied; name a directory you may write to" in second


@pytest.mark.parametrize(
    ("name", "options", "value"),
    [
        ("out.mp4", {"fps": 0}, "0"),
        ("out.mp4", {"fps": -3}, "-3"),
        ("out.mp4", {"fps": float("nan")}, "nan"),
        ("out.mp4", {"fps": "fast"}, "fast"),
        ("out.gif", {"fps": 60}, "60"),
        ("out.mp4", {"quality": 101}, "101"),
        ("out.mp4", {"quality": -1}, "-1"),
        ("out.mp4", {"quality": "best"}, "best"),
        ("out.gif", {"quality": 50}, "50"),
        ("out.npy", {"quality": 50}, "50"),
    ],
)
def test_bad_options_are_named(name, options, value):
    with pytest.raises(UsageError, match=value):
        open_writer(name, VideoShape(1, 1, 2, 2), **options)


def test_bad_arrays_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"\(64, 64, 3\)"):
        save_video(tmp_path / "out.mp4", moving_disc(1)[0])
    with pytest.raises(UsageError, match="at least 1"):
        save_video(tmp_path / "out.mp4", moving_disc()[:0])
