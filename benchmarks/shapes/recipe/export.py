"""Stage ``export``: the trained networks as a diffusers checkpoint directory, float16 safetensors.

The denoiser is that of the newest stage: on-policy, flow map, teacher; before them all it is untrained, which still
gives a runtime the real architecture to load.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from anyflow_rt.benchmarks.shapes.recipe.state import StageState, work_directory
from anyflow_rt.benchmarks.shapes.recipe.text import new_text_encoder, new_tokenizer
from anyflow_rt.benchmarks.shapes.recipe.transformer import TIME_SHIFT, TIME_UNITS, new_transformer
from anyflow_rt.benchmarks.shapes.recipe.vae import load_vae
from anyflow_rt.benchmarks.shapes.world import FRAME_SIZE, NUM_FRAMES
from anyflow_rt.engines.checkpoint_parts import OWN_FILE
from anyflow_rt.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from diffusers import AnyFlowTransformer3DModel
    from transformers import UMT5EncoderModel

FRAME_RATE = 8
DENOISER_STAGES = ("on_policy", "flow_map", "teacher")
TOKENIZER_CLASS = "PreTrainedTokenizerFast"


def denoiser_of(directory: Path) -> tuple[AnyFlowTransformer3DModel, UMT5EncoderModel]:
    """The transformer and text encoder of a checkpoint directory, float32."""
    from diffusers import AnyFlowTransformer3DModel
    from transformers import UMT5EncoderModel

    return (
        AnyFlowTransformer3DModel.from_pretrained(directory / "transformer").float(),
        UMT5EncoderModel.from_pretrained(directory / "text_encoder").float(),
    )


def latest_denoiser(stage: str | None = None) -> tuple[AnyFlowTransformer3DModel, UMT5EncoderModel, str]:
    """The averaged transformer and text encoder of a stage (the newest where None), and the stage's name.

    Raises CheckpointError where the stage named was never run.
    """
    transformer, text_encoder = new_transformer(), new_text_encoder()
    for name in (stage,) if stage else DENOISER_STAGES:
        saved = StageState(name).load()
        if saved is not None:
            transformer.load_state_dict(saved["averaged_transformer"])
            text_encoder.load_state_dict(saved["averaged_text_encoder"])
            return transformer.eval(), text_encoder.eval(), name
    if stage:
        raise CheckpointError(f"stage {stage!r} has no state in {work_directory()}: run it first")
    return transformer.eval(), text_encoder.eval(), "untrained"


def export(directory: Path, stage: str | None = None) -> None:
    """Write the checkpoint directory; existing files of it are replaced."""
    from diffusers import AnyFlowPipeline

    save_pipeline(AnyFlowPipeline, *latest_denoiser(stage), directory)


def save_pipeline(
    kind: type, transformer: torch.nn.Module, text_encoder: UMT5EncoderModel, name: str, directory: Path
) -> None:
    """Write a pipeline of ``kind`` with this denoiser, of the stage ``name``, and the VAE of the training state."""
    import torch
    from diffusers import FlowMapEulerDiscreteScheduler

    pipeline = kind(
        tokenizer=new_tokenizer(),
        text_encoder=text_encoder.to(torch.float16),
        transformer=transformer.to(torch.float16),
        vae=load_vae().to(torch.float16),
        scheduler=FlowMapEulerDiscreteScheduler(num_train_timesteps=int(TIME_UNITS), shift=TIME_SHIFT),
    )
    pipeline.save_pretrained(directory, safe_serialization=True)
    # transformers loads weights in the type the config names, diffusers in float32: name float32, so that both agree.
    _edit_json(directory / "text_encoder" / "config.json", dtype="float32")
    # The class's name in transformers 4 as well as 5.
    _edit_json(directory / "tokenizer" / "tokenizer_config.json", tokenizer_class=TOKENIZER_CLASS)
    _edit_json(directory / "model_index.json", tokenizer=["transformers", TOKENIZER_CLASS])
    size = {"num_frames": NUM_FRAMES, "height": FRAME_SIZE, "width": FRAME_SIZE, "fps": FRAME_RATE}
    (directory / OWN_FILE).write_text(json.dumps(size) + "\n")
    for path in directory.rglob("*.safetensors"):
        path.chmod(0o644)
    total = sum(path.stat().st_size for path in directory.rglob("*.safetensors"))
    print(f"{directory}: denoiser of stage {name}, {total / 1e6:.1f} MB of weights")


def _edit_json(path: Path, **changes: object) -> None:
    contents = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(contents, indent=2, sort_keys=True) + "\n")
