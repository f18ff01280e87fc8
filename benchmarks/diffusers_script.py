"""What somebody writes who has diffusers alone: load the checkpoint, make one video, save it. The peer of a cold start.

python diffusers_script.py CHECKPOINT PROMPT SEED STEPS FRAMES HEIGHT WIDTH FPS OUTPUT
"""

import sys

import torch
from diffusers import AnyFlowPipeline


def save(frames, path: str, fps: int) -> None:
    """frames: (T, H, W, 3) float32 in [0, 1]. Through PyAV, as our own writer: what differs is not the encoder."""
    import av

    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in (frames * 255).round().astype("uint8"):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def main() -> None:
    """Prompt to file."""
    checkpoint, prompt, output = sys.argv[1], sys.argv[2], sys.argv[9]
    seed, steps, num_frames, height, width, fps = map(int, sys.argv[3:9])
    pipeline = AnyFlowPipeline.from_pretrained(checkpoint, torch_dtype=torch.float32)
    frames = pipeline(
        prompt=prompt,
        height=height,
        width=width,
        num_frames=num_frames,
        num_inference_steps=steps,
        generator=torch.Generator("cpu").manual_seed(seed),
    ).frames[0]
    save(frames, output, fps)


if __name__ == "__main__":
    main()
