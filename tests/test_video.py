"""Writers: what is read back is what was written; failures leave nothing behind."""

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest

from anyflow_rt.errors import OutputError, UsageError
from anyflow_rt.output.palette import quantise
from anyflow_rt.output.sheet import evenly_spaced
from anyflow_rt.video import BackgroundWriter, VideoShape, check_output, open_writer, output_paths, save_video

EXTENSIONS = (".mp4", ".gif", ".png", ".npy")
FLAT_COLOURS = np.array(
    [
        [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)],
        [(255, 0, 255), (255, 255, 255), (0, 0, 0), (128, 128, 128), (200, 80, 30)],
        [(16, 16, 16), (235, 235, 235), (30, 200, 90), (90, 30, 200), (5, 9, 13)],
    ],
    dtype=np.uint8,
)


def moving_disc(frames=17, height=64, width=64):
    """uint8 (frames, height, width, 3): a red disc over a gradient, moving right."""
    y, x = np.mgrid[:height, :width]
    gradient = np.stack([x * 255 / width, y * 255 / height, np.full_like(x, 128)], axis=-1)
    clip = []
    for index in range(frames):
        distance = np.hypot(y - height / 2, x - width * (0.2 + 0.6 * index / frames))
        cover = np.clip(height / 5 - distance, 0, 1)[..., None]
        clip.append(gradient * (1 - cover) + cover * np.array([250, 30, 60]))
    return np.stack(clip).round().astype(np.uint8)


def colour_fields(frames=5):
    """uint8 (frames, 48, 80, 3): fields of 16 x 16 pixels of one colour each."""
    fields = FLAT_COLOURS.repeat(16, axis=0).repeat(16, axis=1)
    return fields[None].repeat(frames, axis=0)


def decode(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def block_means(clip, size=8):
    frames, height, width, _ = clip.shape
    return clip.reshape(frames, height // size, size, width // size, size, 3).mean(axis=(2, 4))


def write(path, clip, chunk=4, **options):
    with open_writer(path, VideoShape(1, *clip.shape[:3]), **options) as writer:
        for start in range(0, len(clip), chunk):
            writer.write(clip[start : start + chunk])
    return writer.close()


def test_mp4_plays_back_as_it_was_written(tmp_path):
    clip = moving_disc()
    assert write(tmp_path / "out.mp4", clip) == (tmp_path / "out.mp4",)
    back = decode(tmp_path / "out.mp4")
    assert back.shape == clip.shape
    assert np.abs(block_means(back) - block_means(clip)).mean() < 2.5
    assert np.abs(back.astype(int) - clip).mean() < 5  # 4:2:0 chroma blurs the disc's edge
    assert os.listdir(tmp_path) == ["out.mp4"]


def test_mp4_colours_and_tags(tmp_path):
    clip = colour_fields()
    write(tmp_path / "out.mp4", clip, fps=24, quality=90)
    error = np.abs(decode(tmp_path / "out.mp4").astype(int) - clip)[:, 8::16, 8::16]
    assert error.max() <= 6
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, stream.average_rate, stream.frames) == ("h264", "yuv420p", 24, 5)
        tags = (context.color_range, context.colorspace, context.color_primaries, context.color_trc)
        assert [int(tag) for tag in tags] == [1, 1, 1, 1]
    data = (tmp_path / "out.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")  # players can start before the whole file is there


def test_mp4_quality_is_monotone(tmp_path):
    clip = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    sizes = []
    for quality in (0, 30, 70, 100):
        write(tmp_path / "out.mp4", clip, quality=quality)
        sizes.append((tmp_path / "out.mp4").stat().st_size)
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize(("height", "width"), [(33, 47), (64, 31), (17, 64), (1, 1)])
def test_mp4_pads_odd_sizes(tmp_path, height, width):
    clip = np.full((3, height, width, 3), 90, dtype=np.uint8)
    write(tmp_path / "out.mp4", clip)
    back = decode(tmp_path / "out.mp4")
    assert back.shape == (3, height + height % 2, width + width % 2, 3)
    assert np.abs(back.astype(int) - 90).max() <= 4  # no black border


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_one_frame(tmp_path, extension):
    clip = moving_disc(1)
    path = tmp_path / f"out{extension}"
    write(path, clip)
    back = np.load(path) if extension == ".npy" else decode(path)
    assert back.shape == clip.shape
    assert np.abs(back.astype(int) - clip).mean() < (8 if extension in (".mp4", ".gif") else 1e-9)


def test_gif_plays_back_as_it_was_written(tmp_path):
    clip = moving_disc()
    write(tmp_path / "out.gif", clip)
    back = decode(tmp_path / "out.gif")
    assert back.shape == clip.shape
    assert np.abs(block_means(back) - block_means(clip)).mean() < 4
    image = pytest.importorskip("PIL.Image").open(tmp_path / "out.gif")
    durations = []
    for index in range(image.n_frames):
        image.seek(index)
        durations.append(image.info["duration"])
    assert image.info["loop"] == 0
    assert sum(durations) == pytest.approx(17 * 1000 / 16, abs=20)


def test_gif_keeps_few_colours_exactly(tmp_path):
    clip = colour_fields()
    clip[3:, :16] = (60, 70, 3)  # the palette changes on the way
    write(tmp_path / "out.gif", clip, chunk=2)
    assert np.array_equal(decode(tmp_path / "out.gif"), clip)


def test_quantiser_uses_its_colours():
    clip = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    indices, palette = quantise(clip)
    assert indices.shape == clip.shape[:3] and len(np.unique(indices)) == 256
    assert np.abs(palette[indices].astype(int) - clip).mean() < 20  # 256 cells of a cube: 40 levels wide each


def test_png_is_a_readable_sheet(tmp_path):
    image = pytest.importorskip("PIL.Image")
    clip = moving_disc()
    write(tmp_path / "out.png", clip)
    sheet = np.array(image.open(tmp_path / "out.png"))
    assert sheet.shape == (4 * 66 - 2, 4 * 66 - 2, 3)
    for place, index in enumerate(evenly_spaced(17, 16)):
        top, left = place // 4 * 66, place % 4 * 66
        assert np.array_equal(sheet[top : top + 64, left : left + 64], clip[index])
    assert (sheet[64:66] == 255).all() and (sheet[:, 64:66] == 255).all()


def test_sheet_frames_are_evenly_spaced():
    assert evenly_spaced(81, 16)[0] == 0 and evenly_spaced(81, 16)[-1] == 80
    for length in range(1, 100):
        count = min(length, 16)
        indices = evenly_spaced(length, count)
        assert len(set(indices)) == count and min(indices) >= 0 and max(indices) < length


def test_several_videos(tmp_path):
    clips = np.stack([moving_disc(), moving_disc()[::-1], 255 - moving_disc()])
    assert save_video(tmp_path / "out.npy", clips) == (tmp_path / "out.npy",)
    assert np.array_equal(np.load(tmp_path / "out.npy"), clips)
    save_video(tmp_path / "out.png", clips)
    assert decode(tmp_path / "out.png").shape == (1, 3 * 66 - 2, 8 * 66 - 2, 3)
    for extension in (".mp4", ".gif"):
        paths = save_video(tmp_path / f"out{extension}", clips)
        assert [path.name for path in paths] == [f"out-{index}{extension}" for index in range(3)]
        for path, clip in zip(paths, clips, strict=True):
            assert np.abs(block_means(decode(path)) - block_means(clip)).mean() < 4


def test_videos_may_alternate(tmp_path):
    clips = np.stack([moving_disc(9), 255 - moving_disc(9)])
    with open_writer(tmp_path / "out.npy", VideoShape(2, 9, 64, 64)) as writer:
        for start, stop in ((0, 1), (1, 5), (5, 9)):
            for video in (1, 0):
                writer.write(clips[video, start:stop], video)
    assert np.array_equal(np.load(tmp_path / "out.npy"), clips)


def test_names_of_many_videos_sort():
    names = [path.name for path in output_paths("a.b/clip.v2.MP4", 11)]
    assert names == sorted(names) and names[0] == "clip.v2-00.MP4" and names[-1] == "clip.v2-10.MP4"
    assert output_paths("x.mp4", 1) == (Path("x.mp4"),)


# Failures


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


# In the background


class SlowWriter:
    """Stands in for a writer: takes its time, or fails."""

    def __init__(self, seconds=0.0, failure=None):
        self.seconds, self.failure, self.seen, self.threads, self.state = seconds, failure, [], set(), "open"

    def prepare(self):
        self.threads.add(threading.get_ident())

    def write(self, frames, video=0):
        time.sleep(self.seconds)
        if self.failure:
            raise self.failure
        self.seen.append(int(frames[0, 0, 0, 0]))

    def close(self):
        self.state = "closed"
        return ()

    def abort(self):
        self.state = "aborted"


def test_background_writing_overlaps_and_copies():
    inner = SlowWriter(0.02)
    buffer = np.zeros((1, 1, 1, 3), dtype=np.uint8)
    start = time.perf_counter()
    with BackgroundWriter(inner) as writer:
        for index in range(4):
            buffer[:] = index
            writer.write(buffer)
        queued = time.perf_counter() - start
    assert inner.seen == [0, 1, 2, 3] and inner.state == "closed"
    assert inner.threads.isdisjoint({threading.get_ident()})
    assert queued < 0.07 <= time.perf_counter() - start


def test_background_queue_is_bounded():
    inner = SlowWriter(0.01)
    with BackgroundWriter(inner) as writer:
        for index in range(30):
            writer.write(np.full((1, 1, 1, 3), index, dtype=np.uint8))
            assert index - len(inner.seen) <= 6


def test_background_failures_reach_the_caller():
    failure = ZeroDivisionError("in the worker")
    for count in (1, 100):  # found by close, or by a later write
        inner = SlowWriter(0.001, failure)
        with pytest.raises(ZeroDivisionError, match="in the worker"), BackgroundWriter(inner) as writer:
            for _ in range(count):
                writer.write(np.zeros((1, 1, 1, 3), dtype=np.uint8))
        assert inner.state == "aborted"


def test_background_abort_is_quick():
    inner = SlowWriter(0.05)
    writer = BackgroundWriter(inner)
    for _ in range(5):
        writer.write(np.zeros((1, 1, 1, 3), dtype=np.uint8))
    start = time.perf_counter()
    writer.abort()
    assert time.perf_counter() - start < 0.2 and inner.state == "aborted" and len(inner.seen) < 5
    with pytest.raises(OutputError, match="closed"):
        writer.write(np.zeros((1, 1, 1, 3), dtype=np.uint8))


def test_nothing_heavy_is_imported_for_sheets_and_arrays(tmp_path):
    code = (
        "import sys, numpy as np; from anyflow_rt.video import *; frames = np.zeros((3, 8, 8, 3), np.uint8)\n"
        "save_video(sys.argv[1] + '/a.png', frames); save_video(sys.argv[1] + '/a.npy', frames)\n"
        "assert not {'av', 'torch', 'PIL', 'numpy.random'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
