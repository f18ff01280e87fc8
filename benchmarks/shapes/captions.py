"""The grammar of captions: what a clip's attributes are called, and back.

Three sentence forms, two words a size, two or three phrases a motion. One in ten combinations of attributes is held
out by a stable hash of its names: no clip of it is ever trained on, whatever the phrasing.
"""

from __future__ import annotations

import hashlib
import itertools

from anyflow_rt.benchmarks.shapes.world import ALL_ATTRIBUTES, BACKGROUNDS, COLOURS, SHAPES, Attributes
from anyflow_rt.errors import UsageError

SIZE_WORDS: dict[str, tuple[str, ...]] = {"small": ("small", "little"), "large": ("large", "big")}
MOTION_PHRASES: dict[str, tuple[str, ...]] = {
    "left": ("moving left", "moving to the left", "drifting left"),
    "right": ("moving right", "moving to the right", "drifting right"),
    "up": ("moving up", "rising"),
    "down": ("moving down", "sinking"),
    "still": ("standing still", "not moving"),
}
FORMS = (
    "a {size} {colour} {shape} {motion} on a {background} background",
    "on a {background} background, a {size} {colour} {shape} {motion}",
    "a {size} {colour} {shape}, {motion}, {background} background",
)
HELD_OUT_ONE_IN = 10


def captions(attributes: Attributes) -> tuple[str, ...]:
    """Every caption of these attributes, in a fixed order; the first is the plainest."""
    return tuple(
        form.format(
            size=size,
            colour=attributes.colour,
            shape=attributes.shape,
            motion=motion,
            background=attributes.background,
        )
        for size, motion, form in itertools.product(
            SIZE_WORDS[attributes.size], MOTION_PHRASES[attributes.motion], FORMS
        )
    )


def parse(caption: str) -> Attributes:
    """The attributes a caption of this grammar names. Raises UsageError for any other text."""
    for attributes in ALL_ATTRIBUTES:
        if attributes.shape in caption and attributes.colour in caption and caption in captions(attributes):
            return attributes
    raise UsageError(
        f"caption {caption!r} is not of this grammar: write for example {captions(ALL_ATTRIBUTES[0])[0]!r}"
    )


def _digest(*names: str) -> int:
    return int.from_bytes(hashlib.sha256("|".join(names).encode()).digest()[:8], "big")


def is_held_out(attributes: Attributes) -> bool:
    """Whether this combination is kept out of training."""
    names = (attributes.shape, attributes.colour, attributes.size, attributes.background, attributes.motion)
    return _digest(*names) % HELD_OUT_ONE_IN == 0


TRAINING_ATTRIBUTES = tuple(attributes for attributes in ALL_ATTRIBUTES if not is_held_out(attributes))
HELD_OUT_ATTRIBUTES = tuple(attributes for attributes in ALL_ATTRIBUTES if is_held_out(attributes))


def held_out_prompts(count: int) -> tuple[tuple[str, Attributes], ...]:
    """``count`` different (caption, attributes) pairs of held-out combinations, each combination as often as any other.

    Raises UsageError where the held-out combinations have fewer captions than that.
    """
    orders = [
        sorted(((caption, attributes) for caption in captions(attributes)), key=lambda pair: _digest(pair[0]))
        for attributes in sorted(HELD_OUT_ATTRIBUTES, key=lambda attributes: _digest(captions(attributes)[0]))
    ]
    rounds = itertools.zip_longest(*orders)
    pairs = [pair for one_round in rounds for pair in one_round if pair is not None]
    if not 0 < count <= len(pairs):
        raise UsageError(f"{count} held-out prompts asked for: ask for 1 to {len(pairs)}")
    return tuple(pairs[:count])


def vocabulary() -> tuple[str, ...]:
    """Every word of the grammar, and the comma, in alphabetical order."""
    texts = [*SHAPES, *COLOURS, *BACKGROUNDS, *FORMS]
    texts += [word for words in (*SIZE_WORDS.values(), *MOTION_PHRASES.values()) for word in words]
    words = {word for text in texts for word in text.replace(",", " , ").split() if not word.startswith("{")}
    return tuple(sorted(words))
