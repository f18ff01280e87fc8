"""The training loop that the denoiser stages share: batches, averaged weights, schedule, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from anyflow_rt.benchmarks.shapes.captions import TRAINING_ATTRIBUTES, captions
from anyflow_rt.benchmarks.shapes.recipe.latents import load_latents
from anyflow_rt.benchmarks.shapes.recipe.parallel import average, average_gradients, join, processes, rank
from anyflow_rt.benchmarks.shapes.recipe.state import TORCH_THREADS, Interruption, StageState, TrainingClock
from anyflow_rt.benchmarks.shapes.recipe.text import new_tokenizer

if TYPE_CHECKING:
    from diffusers import AnyFlowTransformer3DModel
    from transformers import UMT5EncoderModel

TEXT_DROP = 0.1
EMA_DECAY = 0.999
SAVE_EVERY, LOG_EVERY = 60.0, 50


@dataclass(frozen=True)
class Batch:
    """Clean latents (B, F, C, H, W), noise of the same shape, and the prompts: token ids and mask, both (B, S)."""

    latents: torch.Tensor
    noise: torch.Tensor
    token_ids: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True)
class Schedule:
    """How a stage trains: steps of warm-up, then linear decay to zero over its budget of training seconds."""

    learning_rate: float
    warmup_steps: int
    batch_size: int
    betas: tuple[float, float] = (0.9, 0.99)

    def rate(self, step: int, progress: float) -> float:
        """The learning rate of a step at this share of the budget."""
        return self.learning_rate * min(1.0, (step + 1) / self.warmup_steps) * (1.0 - progress)


class BatchSource:
    """Random batches of encoded clips with random captions of theirs; one in ten has no caption.

    All captions are padded to the longest: one shape of batch is one compilation.
    """

    def __init__(self) -> None:
        self.latents, self.attributes = load_latents()
        phrasings = [captions(attributes) for attributes in TRAINING_ATTRIBUTES]
        most = max(map(len, phrasings))
        texts = [one[index % len(one)] for one in phrasings for index in range(most)]
        encoded = new_tokenizer()([*texts, ""], padding=True, return_tensors="pt")
        self.phrasings = most
        self.token_ids, self.mask = encoded.input_ids, encoded.attention_mask

    def draw(self, size: int) -> Batch:
        """The next batch, from torch's global generator."""
        chosen = torch.randint(len(self.latents), (size,))
        latents = self.latents[chosen].float()
        rows = self.attributes[chosen] * self.phrasings + torch.randint(self.phrasings, (size,))
        rows = torch.where(torch.rand(size) < TEXT_DROP, len(self.token_ids) - 1, rows)
        return Batch(latents, torch.randn_like(latents), self.token_ids[rows], self.mask[rows])


def train_denoiser(
    stage_name: str,
    seconds: float,
    schedule: Schedule,
    transformer: AnyFlowTransformer3DModel,
    text_encoder: UMT5EncoderModel,
    loss_of: Callable[[Batch], tuple[torch.Tensor, dict[str, float]]],
    also_saved: Mapping[str, torch.nn.Module | torch.optim.Optimizer] | None = None,
) -> None:
    """Train both networks in place for a budget of training seconds in all, going on from the stage's checkpoint.

    ``loss_of`` gives a batch's loss and what to log of it. The checkpoint also holds averaged weights (decay 0.999,
    less at the start), which are what later stages use, and what ``also_saved`` names: ``loss_of``'s own networks.
    """
    torch.set_num_threads(TORCH_THREADS if processes() == 1 else 1)
    join()
    stage, interruption, source = StageState(stage_name), Interruption(), BatchSource()
    networks = {"transformer": transformer, "text_encoder": text_encoder}
    parameters = list(
        {id(p): p for network in networks.values() for p in network.parameters() if p.requires_grad}.values()
    )
    optimizer = torch.optim.AdamW(
        parameters, lr=schedule.learning_rate, betas=schedule.betas, weight_decay=0.0, fused=True
    )
    averaged = {name: {k: v.clone() for k, v in network.state_dict().items()} for name, network in networks.items()}
    clock, step, others = TrainingClock(seconds), 0, also_saved or {}
    saved = stage.load()
    if saved is not None:
        for name, network in networks.items():
            network.load_state_dict(saved[name])
            averaged[name] = saved[f"averaged_{name}"]
        optimizer.load_state_dict(saved["optimizer"])
        for name, holder in others.items():
            holder.load_state_dict(saved[name])
        clock, step = TrainingClock(seconds, saved["spent"]), saved["step"]
    torch.manual_seed((step + 1) * processes() + rank())
    last_save, sums, counted = clock.spent, dict[str, float](), 0

    def save() -> None:
        stage.save(
            {name: network.state_dict() for name, network in networks.items()}
            | {f"averaged_{name}": weights for name, weights in averaged.items()}
            | {name: holder.state_dict() for name, holder in others.items()}
            | {"optimizer": optimizer.state_dict(), "spent": clock.spent, "step": step}
        )
        clock.skip()

    while True:
        progress = average(2.0 if interruption.asked else clock.progress)
        if progress >= 1.0:
            break
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step, progress)
        loss, figures = loss_of(source.draw(schedule.batch_size // processes()))
        optimizer.zero_grad()
        loss.backward()
        average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        weight = 1.0 - min(EMA_DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, network in networks.items():
                torch._foreach_lerp_(list(averaged[name].values()), list(network.state_dict().values()), weight)
        step += 1
        counted += 1
        for key, value in figures.items():
            sums[key] = sums.get(key, 0.0) + value
        clock.tick()
        if step % LOG_EVERY == 0:
            means = {key: value / counted for key, value in sums.items()}
            stage.log(step=step, spent=clock.spent, wall=time.time(), **means)
            sums, counted = {}, 0
        if clock.spent - last_save > SAVE_EVERY:
            save()
            last_save = clock.spent
    save()
