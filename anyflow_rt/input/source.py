"""Frames that a video begins with: an image, or a clip that it continues, from a file or an array."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from anyflow_rt.encoding import FRAMES_PER_LATENT
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.errors import UsageError
from anyflow_rt.input.exif import HEAD, read_turn
from anyflow_rt.input.fit import FITS, fit_frame
from anyflow_rt.input.tiff import is_tiff, plain_tiff

if TYPE_CHECKING:
    from av.container import InputContainer

logger = logging.getLogger(__name__)

MOST_PIXELS = 1 << 27
"""Of one picture: 134 million, more than any camera takes. Beyond, decoding would take gigabytes."""
CLOCK = 0.25
"""Of a frame's length: containers round times to a clock of their own, some to whole hundredths of a second."""
Picture = tuple[Any, np.ndarray | None, float]
"""An ``av.VideoFrame``, and how it is turned where it does not say so itself, and how much wider than high its
pixels are."""
_MOVING_PNG = b"acTL"
"""The chunk by which a PNG says that it moves."""
MEND = "convert it with another program, or give another file"


@dataclass(frozen=True)
class Source:
    """What is given. kind: ``image`` or ``video``. value: a path, or uint8 RGB (H, W, 3) or (T, H, W, 3)."""

    kind: str
    value: Any
    fit: str = "cover"


def make_source(image: Any, video: Any, fit: str) -> Source | None:
    """The given frames' source, None where nothing is given. Raises UsageError; no file is opened."""
    if fit not in FITS:
        raise UsageError(f"fit is {fit!r}; give one of {', '.join(FITS)}")
    if image is not None and video is not None:
        raise UsageError("image and video are both given; a video begins with one of them, so leave the other out")
    if image is None and video is None:
        return None
    kind, value, axes = ("image", image, 3) if video is None else ("video", video, 4)
    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8 or value.ndim != axes or value.shape[-1] != 3 or not value.size:
            wanted = "(height, width, 3)" if kind == "image" else "(frames, height, width, 3)"
            raise UsageError(f"{kind} is an array of {value.dtype} {value.shape}; give uint8 RGB {wanted}, or a path")
    elif not isinstance(value, str | os.PathLike) or not os.fspath(value) or "\0" in str(value):
        raise UsageError(f"{kind} is {value!r}; give the path of a file, or an array of uint8 RGB")
    return Source(kind, value, fit)


def load_source(source: Source, size: VideoSize, fps: float, most: int) -> np.ndarray:
    """The given frames of a video of ``size`` at ``fps``: uint8 RGB (4n + 1, height, width, 3), fewer than its own.

    A clip is resampled to ``fps`` by showing what it shows at every moment; an array is taken to have that rate. Where
    its frames are not 4n + 1 the oldest are left out, and where they are no fewer than the video's all but the last
    ``most`` (4n + 1, or 0): a warning says so. Raises UsageError, one line that names the file and the fault, for what
    cannot be read and where no frame would be left to make.
    """
    # No more than the video has are held, however long the clip is; it ends where it is to go on.
    held: deque[np.ndarray] = deque(maxlen=size.num_frames)
    count = 0
    for frame in _fitted(_pictures(source, fps), source, size):
        held.append(frame)
        count += 1
    spare = (count - 1) % FRAMES_PER_LATENT
    given = count - spare
    if given < size.num_frames:
        if spare:
            logger.warning(
                "%s: the first %d of its %d frames are left out, since a video begins with 4n + 1 of them",
                *(_name(source), spare, count),
            )
        return np.stack(list(held)[spare:])
    if source.kind == "image" or not most:
        raise UsageError(
            f"{_name(source)} gives {given} of the video's {size.num_frames} frames at {fps:g} frames a second, which "
            f"leaves none to make; ask for a num_frames of {given + FRAMES_PER_LATENT} or more"
        )
    logger.warning(
        "%s has %d frames at %g frames a second, as many as the video or more: it begins with the last %d of them, and "
        "makes %d; ask for a num_frames of %d or more to begin with all",
        *(_name(source), count, fps, most, size.num_frames - most, given + FRAMES_PER_LATENT),
    )
    return np.stack(list(held)[-most:])


def _fitted(pictures: Iterator[Picture], source: Source, size: VideoSize) -> Iterator[np.ndarray]:
    before: Any = None
    fitted: np.ndarray | None = None
    for picture, turn, aspect in pictures:
        if picture is not before:  # one that is shown for long comes many times
            try:
                fitted = fit_frame(picture, size.height, size.width, source.fit, turn, aspect)
            except UsageError as error:
                raise UsageError(f"{_name(source)}: {error}") from error
            before = picture
        assert fitted is not None
        yield fitted


def _name(source: Source) -> str:
    if isinstance(source.value, np.ndarray):
        return f"the {source.kind} array"
    return f"{source.kind} {os.fspath(source.value)!r}"


def _pictures(source: Source, fps: float) -> Iterator[Picture]:
    """At ``fps``; of an image one."""
    if not isinstance(source.value, np.ndarray):
        yield from _read(source, fps)
        return
    import av

    for pixels in source.value if source.kind == "video" else source.value[None]:
        yield av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24"), np.eye(2), 1.0


def _read(source: Source, fps: float) -> Iterator[Picture]:
    import av

    name, path = _name(source), os.fspath(source.value)
    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(f"{name} is not a regular file; give an image or video file")
    if os.path.exists(path) and not os.path.getsize(path):
        raise UsageError(f"{name} is empty; give an image or video file")
    try:
        # An open file rather than its name: a name may also be a pattern or a protocol to FFmpeg. The white list
        # keeps playlists from fetching what they name.
        with open(path, "rb") as file, _opened(file, name) as (container, turn):
            if not container.streams.video:
                raise UsageError(f"{name} has no video stream; give an image or video file")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise UsageError(f"{name} cannot be read: PyAV has no decoder for it; {MEND}")
            _check_size(name, stream.width, stream.height)
            stream.thread_type = "AUTO"
            stream.codec_context.options = {"err_detect": "explode"}
            decoded: Iterator[Any] = container.decode(stream)
            if source.kind == "image":
                shown = _one(decoded, name)
            else:
                shown = _resampled(decoded, fps, float(stream.average_rate or stream.guessed_rate or fps), name)
            aspect = float(stream.sample_aspect_ratio or 1)
            for frame in shown:
                yield frame, turn, aspect
    except av.FFmpegError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror or error}; {MEND}") from error
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror or error}; give a file that can be opened") from error


@contextlib.contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[tuple[InputContainer, np.ndarray | None]]:
    """The container in an open file, and the turn its EXIF block or its own tag asks for."""
    import av

    turn, head = read_turn(file), file.read(HEAD)
    # FFmpeg takes a PNG that moves for one that does not.
    kind = "apng" if _MOVING_PNG in head else None
    file.seek(0)
    if is_tiff(head):
        file, turn = plain_tiff(file.read(), name)
    with av.open(file, "r", format=kind, options={"protocol_whitelist": "data"}) as container:
        yield container, turn


def _check_size(name: str, width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise UsageError(f"{name} has {width}x{height} pixels, and at most {MOST_PIXELS} fit; make it smaller first")


def _one(frames: Iterator[Any], name: str) -> Iterator[Any]:
    """The first frame; a picture that moves is said to."""
    first = next(frames, None)
    if first is None:
        raise UsageError(f"{name} holds no picture; {MEND}")
    yield first
    if next(frames, None) is not None:
        logger.warning("%s has several frames, and the first is used; give it as video (--video) to continue it", name)


def _resampled(frames: Iterator[Any], fps: float, rate: float, name: str) -> Iterator[Any]:
    """What a clip shows at 0, 1 / fps, 2 / fps ... seconds after its first frame, whatever rate or rates it has.

    rate: of the clip, on average: how long its last frame is shown, and all of them where they carry no time.
    """
    shown, start, moment = None, 0.0, 0
    time = -1 / rate
    for frame in frames:
        time = time + 1 / rate if frame.time is None else float(frame.time)
        start = time if shown is None else start
        while shown is not None and moment / fps < time - start - CLOCK / rate:
            yield shown
            moment += 1
        shown = frame
    while shown is not None and (moment == 0 or moment / fps < time - start + (1 - CLOCK) / rate):
        yield shown
        moment += 1
    if shown is None:
        raise UsageError(f"{name} has a video stream without a frame; {MEND}")
