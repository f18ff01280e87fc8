"""Images and clips that a video begins with: every way they are read, fitted and resampled, and what is refused."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.errors import UsageError
from anyflow_rt.input import source
from anyflow_rt.input.fit import fit_frame
from anyflow_rt.input.source import load_source, make_source

SIZE = VideoSize(81, 32, 48)
FPS = 8.0
ORIENTATION_TAG = 0x0112
RED, GREEN, BLUE, WHITE = (220, 20, 20), (20, 200, 20), (20, 20, 220), (235, 235, 235)


def load(size: VideoSize = SIZE, fit: str = "cover", fps: float = FPS, **given: Any) -> np.ndarray:
    made = make_source(given.get("image"), given.get("video"), fit)
    assert made is not None
    return load_source(made, size, fps, given.get("most", size.num_frames - 4))


def refusal(**options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        load(**options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def quarters(height: int = 32, width: int = 48) -> np.ndarray:
    """Red and green above blue and white."""
    colours = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8)
    return colours.repeat(height // 2, 0).repeat(width // 2, 1)


def corners(frame: np.ndarray) -> list[tuple[int, ...]]:
    """The colour nearest to each corner's, in reading order."""
    found = []
    for y in (4, -5):
        for x in (4, -5):
            found.append(min((RED, GREEN, BLUE, WHITE), key=lambda c: np.abs(frame[y, x].astype(int) - c).sum()))
    return found


def clip(path: Path, frames: list[np.ndarray], rate: int = 24, times: list[int] | None = None) -> Path:
    """Lossless; times: of each frame, in hundredths of a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "bgr0"
        stream.codec_context.time_base = Fraction(1, 100)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = (
                (round(100 * index / rate) if times is None else times[index]),
                Fraction(1, 100),
            )
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def grey(count: int, height: int = 32, width: int = 48) -> list[np.ndarray]:
    """Frames that hold their own number."""
    return [np.full((height, width, 3), index, np.uint8) for index in range(count)]


def numbers(frames: np.ndarray) -> list[int]:
    return np.rint(frames.mean(axis=(1, 2, 3))).astype(int).tolist()


def test_arrays_of_the_right_size_stay_as_they_are() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 32, 48, 3), np.uint8)
    assert np.array_equal(load(video=pixels), pixels)
    assert np.array_equal(load(image=pixels[0]), pixels[:1])


def test_fits() -> None:
    square = np.full((64, 64, 3), 200, np.uint8)
    square[:, :20] = square[:, -20:] = square[:6] = square[-6:] = 0
    assert load(image=square, fit="stretch").shape == (1, 32, 48, 3)
    contained = load(image=square, fit="contain")[0]
    assert contained[:, :8].max() == contained[:, -8:].max() == 0 and contained[16, 24].min() > 190
    covered = load(image=square, fit="cover")[0]
    assert covered[0, 24].min() > 190, "what is beyond the video's height is cut"


@pytest.mark.parametrize("orientation", range(9))
def test_photographs_are_shown_upright(tmp_path: Path, orientation: int) -> None:
    """Stored so that the EXIF tag turns them back into the same picture; 0 is none that the standard knows."""
    stored = Image.fromarray(quarters())
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    if orientation in undo:
        stored = stored.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    for name in ("photo.jpg", "photo.png", "photo.webp"):
        stored.save(tmp_path / name, exif=exif)
        assert corners(load(image=tmp_path / name)[0]) == [RED, GREEN, BLUE, WHITE], name


def tiff(picture: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, "TIFF", **options)
    return file.getvalue()


def test_tiffs(tmp_path: Path) -> None:
    """Tags that say nothing about pixels are no fault, their own orientation is; what is damaged is refused."""
    path, tags = tmp_path / "a.tif", Image.Exif()
    tags[ORIENTATION_TAG] = 6
    turned = Image.fromarray(quarters()).transpose(Image.Transpose.ROTATE_90)
    for mode, options in (
        ("RGB", {"compression": "tiff_lzw"}),
        ("RGBA", {"compression": "tiff_adobe_deflate", "software": "a scanner", "icc_profile": b"0" * 400}),
        ("P", {"compression": "packbits", "description": "quarters"}),
    ):
        path.write_bytes(tiff(turned.convert(mode), dpi=(300, 300), exif=tags, **options))
        assert corners(load(image=path)[0]) == [RED, GREEN, BLUE, WHITE], (mode, options)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    for compression in ("tiff_lzw", "tiff_adobe_deflate", None):
        whole = tiff(noise, dpi=(300, 300), compression=compression)
        path.write_bytes(whole[:6000])
        assert "a.tif' cannot be read" in refusal(image=path)
        if compression is not None:
            path.write_bytes(whole[:3000] + bytes(byte ^ 255 for byte in whole[3000:3100]) + whole[3100:])
            assert "a.tif' cannot be read" in refusal(image=path)
    big_endian = tiff(Image.new("I;16B", (48, 32), 40000), dpi=(300, 300))
    path.write_bytes(big_endian)
    assert big_endian[:2] == b"MM" and np.abs(load(image=path).astype(int) - 156).max() <= 2
    path.write_bytes(tiff(noise, compression="jpeg"))
    assert "a.tif' is JPEG within TIFF" in refusal(image=path)
    path.write_bytes(tiff(Image.fromarray(np.ones((64, 64), np.float32)), dpi=(300, 300)))
    assert "a.tif' cannot be read" in refusal(image=path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.gif", "%03d.png"])
def test_formats(tmp_path: Path, name: str) -> None:
    Image.fromarray(quarters(64, 96)).save(tmp_path / name)
    assert corners(load(image=str(tmp_path / name))[0]) == [RED, GREEN, BLUE, WHITE]


def test_unusual_pictures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One pixel, 16 bits, CMYK, a palette, and one that moves: each is its picture."""
    Image.new("RGB", (1, 1), RED).save(tmp_path / "one.png")
    assert load(image=tmp_path / "one.png")[0].reshape(-1, 3).tolist() == [list(RED)] * (32 * 48)
    Image.fromarray(np.full((32, 48), 40000, np.uint16)).save(tmp_path / "deep.png")
    assert np.abs(load(image=tmp_path / "deep.png").astype(int) - 156).max() <= 2
    Image.fromarray(quarters()).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert corners(load(image=tmp_path / "cmyk.jpg")[0]) == [RED, GREEN, BLUE, WHITE]
    Image.fromarray(quarters()).quantize(8).save(tmp_path / "palette.png")
    assert corners(load(image=tmp_path / "palette.png")[0]) == [RED, GREEN, BLUE, WHITE]
    still, *others = (Image.fromarray(frame) for frame in grey(3))
    still.save(tmp_path / "moving.gif", save_all=True, append_images=others)
    assert load(image=tmp_path / "moving.gif").max() == 0
    still.save(tmp_path / "moving.png", save_all=True, append_images=others)
    assert load(image=tmp_path / "moving.png").max() == 0
    assert caplog.text.count("has several frames, and the first is used") == 2


def test_clips_are_resampled_by_time(tmp_path: Path) -> None:
    """24 frames a second at 8: every third. At half its rate each is shown twice. Odd sizes are no trouble."""
    path = clip(tmp_path / "clip.mkv", grey(27, 31, 45))
    assert numbers(load(video=path)) == list(range(0, 27, 3))
    assert numbers(load(video=path, fps=48.0)) == [number for number in range(27) for _ in "ab"][1:]


def test_pixels_that_are_wider_than_high(tmp_path: Path) -> None:
    """Stored 32x32 and shown 64x32: contained in 48x32 it is as wide as that, with black above and below."""
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        for packet in (
            *stream.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 200, np.uint8))),
            *stream.encode(),
        ):
            container.mux(packet)
    shown = load(video=path, fit="contain")[0]
    assert shown[16, [0, 47]].min() > 180 and shown[[2, 29]].max() < 20


def test_variable_rates(tmp_path: Path) -> None:
    path = clip(tmp_path / "clip.mkv", grey(5), rate=8, times=[0, 10, 60, 70, 100])
    found = numbers(load(video=path))
    assert found[:8] == [0, 1, 1, 1, 1, 2, 3, 3], "what the clip shows every eighth of a second"


def test_a_jump_in_time_is_fitted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, fitted = clip(tmp_path / "clip.mkv", grey(3), rate=8, times=[0, 12, 4_000_000]), [0]

    def counted(*given: Any) -> np.ndarray:
        fitted[0] += 1
        return fit_frame(*given)

    monkeypatch.setattr(source, "fit_frame", counted)
    assert numbers(load(video=path))[-3:] == [1, 1, 2] and fitted == [3]


def test_all_but_4n_plus_1_frames_are_left_out_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A clip goes on from where it ends."""
    assert numbers(load(video=clip(tmp_path / "clip.mkv", grey(7), rate=8))) == [2, 3, 4, 5, 6]
    assert "the first 2 of its 7 frames are left out" in caplog.text


def test_of_a_clip_with_too_many_frames_the_end_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, size = clip(tmp_path / "clip.mkv", grey(30), rate=8), VideoSize(17, 32, 48)
    assert numbers(load(video=path, size=size, most=5)) == [25, 26, 27, 28, 29]
    assert "has 30 frames at 8 frames a second" in caplog.text
    assert "it begins with the last 5 of them, and makes 12; ask for a num_frames of 33 or more" in caplog.text
    assert numbers(load(video=path, size=VideoSize(33, 32, 48))) == list(range(1, 30)), "what the warning said"
    assert numbers(load(video=np.stack(grey(17)), size=size)) == list(range(4, 17)), "as many as the video"


def test_no_frame_left_to_make() -> None:
    said = refusal(image=quarters(), size=VideoSize(1, 32, 48))
    assert "gives 1 of the video's 1 frames at 8 frames a second" in said and "num_frames of 5 or more" in said
    said = refusal(video=np.stack(grey(10)), size=VideoSize(1, 32, 48), most=0)
    assert "gives 9 of the video's 1 frames" in said and "num_frames of 13 or more" in said


def test_a_video_stream_without_a_frame(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "none.avi"), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        container.start_encoding()
    assert "none.avi' has a video stream without a frame" in refusal(video=tmp_path / "none.avi")


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture at all, only words")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        for packet in stream.encode(sound):
            container.mux(packet)
    (tmp_path / "drawing.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"/>')
    for name in ("text.png", "cut.png", "drawing.svg"):
        assert name in refusal(image=tmp_path / name)
    assert "empty.png' is empty" in refusal(image=tmp_path / "empty.png")
    assert "empty.png' is empty" in refusal(video=tmp_path / "empty.png")
    assert "No such file" in refusal(image=tmp_path / "absent.png")
    assert "is not a regular file" in refusal(image=tmp_path)
    assert "has no video stream" in refusal(video=tmp_path / "sound.wav")


def test_huge_pictures_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    Image.new("1", (16384, 8200)).save(tmp_path / "huge.png")
    assert "has 16384x8200 pixels" in refusal(image=tmp_path / "huge.png")


@pytest.mark.parametrize("size", [(1, 30000), (60000, 2)])
def test_pictures_too_narrow_to_cover_a_video(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, RED).save(tmp_path / "narrow.png")
    said = refusal(image=tmp_path / "narrow.png")
    assert "narrow.png'" in said and f"{size[0]}x{size[1]} pixels is too narrow to cover" in said
    assert load(image=tmp_path / "narrow.png", fit="stretch").max() > 200
    assert load(image=tmp_path / "narrow.png", fit="contain").max() > 200


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"image": "a.png", "video": "b.mp4"}, "image and video are both given"),
        ({"image": ""}, "image is ''"),
        ({"image": 5}, "image is 5"),
        ({"image": np.zeros((4, 4), np.uint8)}, r"uint8 \(4, 4\); give uint8 RGB \(height, width, 3\)"),
        ({"video": np.zeros((4, 4, 4, 3))}, "float64"),
        ({"video": np.zeros((0, 4, 4, 3), np.uint8)}, r"\(0, 4, 4, 3\)"),
        ({"image": "a.png", "fit": "crop"}, "fit is 'crop'; give one of cover, contain, stretch"),
    ],
)
def test_bad_options(given: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load(**given)
