"""Prompt cleaning and tokens against diffusers' and transformers' own."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from anyflow_rt.errors import BundleError, UsageError
from anyflow_rt.prompt import PromptTokenizer, clean_prompt, clean_prompts

PROMPTS = [
    "a red circle moving left",
    "  two\tlines\nof   text \r\n and more  ",
    "🐈‍⬛ chasing 🧶, then 👩🏽‍🚀!",
    "Ein Käfer läuft über die Straße",
    "一只猫在键盘上行走。猫は歩く。고양이가 걷는다",
    "قطة تمشي على لوحة المفاتيح · חתול",
    "ＬＯＵＤ　ＮＯＩＳＥＳ and ﬂubberiﬁc “quotes” it’s",
    "fish &amp; chips &amp;amp; peas &lt;b&gt; &#128512; &eacute; &nbsp; &copy 2026",
    "âœ” mojibake sÃ³ voilÃ le travail",
    "\x1b[36;44mblue\x1b[0m\x00\x07 control\ufeff \u200b characters \x85 \xa0 here",
    "lone \ud83d surrogate \udc31",
    "already </s> special <pad> tokens <unk>",
    "e\u0301 combining",
    "0123456789" * 300,
    "word " * 3000,
    "&" * 50,
    "&amp;lt;script&amp;gt;",
    "x",
]


def reference_clean(text):
    from diffusers.pipelines.anyflow import pipeline_anyflow

    return pipeline_anyflow.prompt_clean(text)


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory):
    """A small Unigram tokenizer with byte fallback that closes prompts with ``</s>``, as UMT5's does."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789▁.,!&;<>äé猫は"
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(f"<0x{byte:02X}>", -12.0) for byte in range(256)]
    vocabulary += [(letter, -6.0 - index / 100) for index, letter in enumerate(letters)]
    vocabulary += [(piece, -3.0) for piece in ("▁a", "▁red", "▁circle", "▁word", "ing", "mov", "▁猫", "12", "the")]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module")
def reference_tokenizer(tokenizer_json):
    transformers = pytest.importorskip("transformers")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "</s>"}
    (tokenizer_json.parent / "tokenizer_config.json").write_text(json.dumps(settings))
    return transformers.AutoTokenizer.from_pretrained(tokenizer_json.parent)


def reference_tokens(tokenizer, prompts, length):
    batch = tokenizer(
        prompts,
        padding="max_length",
        max_length=length,
        truncation=True,
        add_special_tokens=True,
        return_attention_mask=True,
        return_tensors="np",
    )
    return batch["input_ids"], batch["attention_mask"]


def assert_same_tokens(found, expected):
    input_ids, attention_mask = expected
    longest = found.input_ids.shape[1]
    assert found.input_ids.dtype == found.attention_mask.dtype == np.int64
    assert np.array_equal(found.input_ids, input_ids[:, :longest])
    assert np.array_equal(found.attention_mask, attention_mask[:, :longest])
    assert not attention_mask[:, longest:].any() and attention_mask[:, :longest].sum(axis=1).max() == longest


@pytest.mark.parametrize("prompt", PROMPTS)
def test_cleaning_equals_the_reference(prompt):
    assert clean_prompt(prompt) == reference_clean(prompt)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(max_codepoint=0x7F)) | st.text() | st.from_regex(r"(&[a-zA-Z#0-9]{1,7};?|[ -~])*"))
def test_cleaning_equals_the_reference_on_any_text(prompt):
    assert clean_prompt(prompt) == reference_clean(prompt)


def test_the_ascii_short_cut_holds_for_every_pair_of_characters():
    import ftfy

    plain = [chr(code) for code in (9, 10, *range(32, 127)) if code != ord("&")]
    text = " ".join(first + second for first in plain for second in plain)
    assert ftfy.fix_text(text) == text
    assert clean_prompt(text) == reference_clean(text)


@pytest.mark.parametrize("length", [1, 2, 3, 16, 512])
def test_tokens_equal_transformers(tokenizer_json, reference_tokenizer, length):
    prompts = clean_prompts(PROMPTS)
    tokenizer = PromptTokenizer(tokenizer_json)
    expected = reference_tokens(reference_tokenizer, prompts, length)
    assert_same_tokens(tokenizer(prompts, length), expected)
    for row, prompt in enumerate(prompts):
        alone = tokenizer([prompt], length)
        assert_same_tokens(alone, (expected[0][row : row + 1], expected[1][row : row + 1]))
        assert alone.input_ids[0, -1] == 1  # truncated or not, the prompt ends in </s>


def test_tokens_equal_transformers_t5(tokenizer_json):
    """The class real checkpoints name builds its own pre-tokenizer; a bundle holds the tokenizer it ends up with."""
    transformers = pytest.importorskip("transformers")
    vocabulary = [tuple(entry) for entry in json.loads(tokenizer_json.read_text())["model"]["vocab"]]
    reference = transformers.T5Tokenizer(vocab=vocabulary, extra_ids=0)
    reference.save_pretrained(tokenizer_json.parent / "t5")
    prompts = clean_prompts(PROMPTS)
    found = PromptTokenizer(tokenizer_json.parent / "t5" / "tokenizer.json")(prompts, 64)
    assert_same_tokens(found, reference_tokens(reference, prompts, 64))


def test_settings_inside_the_file_are_overridden(tokenizer_json, reference_tokenizer, tmp_path):
    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    tokenizer.enable_truncation(max_length=5, stride=2, direction="left")
    tokenizer.enable_padding(length=100, pad_id=0, pad_token="<pad>", direction="left", pad_to_multiple_of=8)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    prompts = clean_prompts(PROMPTS[:8])
    found = PromptTokenizer(tmp_path / "tokenizer.json")(prompts, 64)
    assert_same_tokens(found, reference_tokens(reference_tokenizer, prompts, 64))


def test_lengths_may_change_between_calls(tokenizer_json):
    tokenizer = PromptTokenizer(tokenizer_json)
    assert [tokenizer(["a red circle"], length).input_ids.shape[1] for length in (512, 2, 512, 3)] == [4, 2, 4, 3]


def test_one_warning_says_what_was_cut(tokenizer_json, caplog):
    tokenizer = PromptTokenizer(tokenizer_json)
    with caplog.at_level(logging.WARNING):
        tokenizer(["a red circle"], 4)
        assert not caplog.records
        tokenizer(["a", "a red circle a word", "the the the the the"], 4)
    (record,) = caplog.records
    assert "2 of 3 prompts" in record.getMessage() and "=4" in record.getMessage()
    assert "'a word'" in record.getMessage()


def test_empty_negative_prompts_are_allowed(tokenizer_json, reference_tokenizer):
    assert clean_prompts("", name="negative_prompt", allow_empty=True) == [""]
    found = PromptTokenizer(tokenizer_json)([""], 16)
    assert_same_tokens(found, reference_tokens(reference_tokenizer, [""], 16))
    assert found.input_ids.tolist() == [[1]]


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ("", ["prompt is empty"]),
        (" \n\t\u3000&nbsp;\u200a", ["prompt is empty"]),
        (["fine", "&#32;"], ["prompt[1]", "empty"]),
        ([], ["empty list"]),
        (None, ["None"]),
        (b"bytes", ["b'bytes'"]),
        (3, ["3"]),
        (["fine", 4], ["prompt[1]", "4"]),
        ([["nested"]], ["prompt[0]", "nested"]),
    ],
)
def test_bad_prompts_are_named(prompts, words):
    with pytest.raises(UsageError) as error:
        clean_prompts(prompts)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("length", [0, -1, 2.0, True, None, 10**30])
def test_bad_lengths_are_named(tokenizer_json, length):
    with pytest.raises(UsageError) as error:
        PromptTokenizer(tokenizer_json)(["x"], length)
    assert repr(length) in str(error.value)


def test_bad_tokenizer_files_are_named(tokenizer_json, tmp_path):
    with pytest.raises(BundleError, match=r"nowhere\.json"):
        PromptTokenizer(tmp_path / "nowhere.json")
    (tmp_path / "damaged.json").write_text(tokenizer_json.read_text()[:1000])
    with pytest.raises(BundleError, match=r"damaged\.json"):
        PromptTokenizer(tmp_path / "damaged.json")
    Tokenizer(models.WordLevel({"x": 0}, unk_token="x")).save(str(tmp_path / "unpadded.json"))
    with pytest.raises(BundleError, match=r"unpadded\.json has no pad token"):
        PromptTokenizer(tmp_path / "unpadded.json")


def test_plain_prompts_import_nothing_heavy(tokenizer_json):
    code = (
        "import sys; from anyflow_rt.prompt import PromptTokenizer, clean_prompts; "
        "PromptTokenizer(sys.argv[1])(clean_prompts('a red circle, moving left'), 16); "
        "bad = {'torch', 'transformers', 'ftfy'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code, str(tokenizer_json)], check=True)
