"""256 colours for a handful of frames, by variance-based cutting of their colour histogram."""

from __future__ import annotations

import heapq

import numpy as np

COLOURS = 256
BINS = 1 << 15  # five bits a channel


def quantise(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices uint8 (T, H, W) and their palette uint8 (256, 3) for frames uint8 (T, H, W, 3).

    Colours are counted in 32 x 32 x 32 bins. The box of bins with the largest squared error is cut at its mean, along
    its widest axis, until there are 256 boxes (X. Wu's criterion with a cheaper cut); a palette entry is the mean of
    its box's pixels. No dithering: still areas stay still, which keeps a GIF small.
    """
    bins = (
        ((frames[..., 0].astype(np.intp) >> 3) << 10)
        | ((frames[..., 1].astype(np.intp) >> 3) << 5)
        | (frames[..., 2] >> 3)
    )
    flat = bins.reshape(-1)
    counts = np.bincount(flat, minlength=BINS)
    used = np.flatnonzero(counts)
    weights = counts[used].astype(np.float64)
    sums = [np.bincount(flat, weights=frames[..., channel].reshape(-1), minlength=BINS)[used] for channel in range(3)]
    colours = np.stack(sums, axis=1) / weights[:, None]

    table = np.zeros(BINS, dtype=np.uint8)
    palette = np.zeros((COLOURS, 3), dtype=np.uint8)
    for index, box in enumerate(_cut(weights, colours)):
        table[used[box]] = index
        palette[index] = np.rint(weights[box] @ colours[box] / weights[box].sum())
    return table[bins], palette


def _cut(weights: np.ndarray, colours: np.ndarray) -> list[np.ndarray]:
    """At most 256 boxes, each an array of positions in ``weights`` (n,) and ``colours`` (n, 3)."""
    queue: list[tuple[float, int, np.ndarray, np.ndarray]] = []
    serial = 0

    def push(box: np.ndarray) -> None:
        nonlocal serial
        weight, colour = weights[box], colours[box]
        mean = weight @ colour / weight.sum()
        errors = weight @ (colour - mean) ** 2
        axis = int(errors.argmax())
        upper = colour[:, axis] > mean[axis]
        # Rounding can leave a mean a hair off its only colour: a box that would not fall in two is done.
        error = float(errors.sum()) if upper.any() and not upper.all() else 0.0
        heapq.heappush(queue, (-error, serial, box, upper))
        serial += 1

    push(np.arange(len(weights)))
    while len(queue) < COLOURS and queue[0][0] < 0.0:
        _, _, box, upper = heapq.heappop(queue)
        push(box[upper])
        push(box[~upper])
    return [entry[2] for entry in queue]
