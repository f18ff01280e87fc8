"""Writers: what is read back is what was written."""

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from support.clips import EXTENSIONS, block_means, colour_fields, decode, moving_disc, write

from anyflow_rt.output.palette import quantise
from anyflow_rt.output.sheet import evenly_spaced
from anyflow_rt.video import VideoShape, open_writer, output_paths, save_video


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


def test_nothing_heavy_is_imported_for_sheets_and_arrays(tmp_path):
    code = (
        "import sys, numpy as np; from anyflow_rt.video import *; frames = np.zeros((3, 8, 8, 3), np.uint8)\n"
        "save_video(sys.argv[1] + '/a.png', frames); save_video(sys.argv[1] + '/a.npy', frames)\n"
        "assert not {'av', 'torch', 'PIL', 'numpy.random'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
