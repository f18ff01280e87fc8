"""Clips to write to files, and what comes back from them."""

from __future__ import annotations

import av
import numpy as np

from anyflow_rt.video import VideoShape, open_writer

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
