"""One process that decodes random latents to a file, and says what memory that took: see ``memory``.

python -m anyflow_rt.benchmarks.decode_process FRAMES HEIGHT WIDTH OUTPUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

import anyflow_rt
from anyflow_rt import video
from anyflow_rt.decoding import decode
from anyflow_rt.engines import geometry
from anyflow_rt.engines.geometry import VideoSize

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main() -> None:
    """Load, note the resident memory, decode, note the peak since."""
    num_frames, height, width = map(int, sys.argv[1:4])
    with anyflow_rt.load() as runtime:
        size = geometry.latent_size(runtime.bundle.architecture, VideoSize(num_frames, height, width))
        loaded = _resident("VmRSS")
        CLEAR.write_text("5")  # the peak starts again from here
        generator = np.random.default_rng(0)
        latents = generator.standard_normal((1, size.frames, size.channels, size.height, size.width), np.float32)
        shape = video.VideoShape(1, num_frames, height, width)
        with video.BackgroundWriter(video.open_writer(sys.argv[4], shape)) as writer:
            for chunk in decode(runtime._components, latents):
                writer.write(chunk[0])
        print(json.dumps({"loaded": loaded, "peak": _resident("VmHWM")}))


def _resident(name: str) -> int:
    """Bytes that /proc/self/status says: VmRSS now, VmHWM at most."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
