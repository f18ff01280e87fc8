"""Captions say their attributes and nothing else; held-out combinations stay held out."""

from collections import Counter

import pytest

from anyflow_rt.benchmarks.shapes.captions import (
    HELD_OUT_ATTRIBUTES,
    TRAINING_ATTRIBUTES,
    captions,
    held_out_prompts,
    parse,
    vocabulary,
)
from anyflow_rt.benchmarks.shapes.world import ALL_ATTRIBUTES
from anyflow_rt.errors import UsageError


def test_captions_are_unique_and_parse_back() -> None:
    owner = {}
    for attributes in ALL_ATTRIBUTES:
        for caption in captions(attributes):
            assert caption not in owner
            owner[caption] = attributes
    for caption in list(owner)[::97]:
        assert parse(caption) == owner[caption]


def test_other_text_is_refused() -> None:
    with pytest.raises(UsageError, match="a red dog"):
        parse("a red dog")


def test_the_split_is_the_one_the_checkpoint_was_trained_with() -> None:
    assert len(HELD_OUT_ATTRIBUTES) + len(TRAINING_ATTRIBUTES) == len(ALL_ATTRIBUTES) == 720
    assert len(HELD_OUT_ATTRIBUTES) == 70
    assert held_out_prompts(1)[0][0] == "a small cyan circle moving up on a white background"


def test_held_out_prompts() -> None:
    pairs = held_out_prompts(256)
    assert len({prompt for prompt, _ in pairs}) == 256
    counts = Counter(attributes for _, attributes in pairs)
    assert set(counts) == set(HELD_OUT_ATTRIBUTES)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert all(prompt in captions(attributes) for prompt, attributes in pairs)
    with pytest.raises(UsageError, match="100000"):
        held_out_prompts(100_000)


def test_every_value_of_every_attribute_is_trained() -> None:
    for name in ("shape", "colour", "size", "background", "motion"):
        trained = {getattr(attributes, name) for attributes in TRAINING_ATTRIBUTES}
        assert trained == {getattr(attributes, name) for attributes in ALL_ATTRIBUTES}


def test_the_vocabulary_covers_every_caption() -> None:
    words = {word for a in ALL_ATTRIBUTES for caption in captions(a) for word in caption.replace(",", " , ").split()}
    assert words == set(vocabulary())
