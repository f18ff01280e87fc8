"""Stage ``picture``: a sheet of samples of held-out prompts, one row a prompt, every fourth frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anyflow_rt.benchmarks.shapes.captions import held_out_prompts
from anyflow_rt.benchmarks.shapes.recipe.evaluate import FIRST_SEED, decode, sample
from anyflow_rt.benchmarks.shapes.recipe.state import TORCH_THREADS
from anyflow_rt.benchmarks.shapes.world import FRAME_SIZE, NUM_FRAMES

ROWS, SCALE, CAPTION_WIDTH, GAP = 8, 2, 470, 6


def draw(checkpoint: Path, steps: int, path: Path) -> None:
    """Write the first eight held-out prompts' videos, seed 1000 + index, as a PNG."""
    import torch
    from diffusers import AnyFlowPipeline
    from PIL import Image, ImageDraw, ImageFont

    torch.set_num_threads(TORCH_THREADS)
    pipeline = AnyFlowPipeline.from_pretrained(checkpoint)
    prompts = [prompt for prompt, _ in held_out_prompts(ROWS)]
    videos = decode(pipeline, sample(pipeline, prompts, range(FIRST_SEED, FIRST_SEED + ROWS), steps))[:, ::4]
    side = FRAME_SIZE * SCALE
    columns = (NUM_FRAMES + 3) // 4
    sheet = Image.new("RGB", (CAPTION_WIDTH + columns * (side + GAP), ROWS * (side + GAP)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=17)
    for row, (prompt, video) in enumerate(zip(prompts, videos, strict=True)):
        words = prompt.split()
        lines = [" ".join(words[:7]), " ".join(words[7:])]
        pen.multiline_text((12, row * (side + GAP) + side // 2 - 22), "\n".join(lines), fill="black", font=font)
        for column, frame in enumerate(video):
            image = Image.fromarray(np.ascontiguousarray(frame)).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(image, (CAPTION_WIDTH + column * (side + GAP), row * (side + GAP)))
    sheet.save(path, optimize=True)
