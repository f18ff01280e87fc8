"""The tokenizer of the caption grammar and the small UMT5 encoder behind it.

A word-level tokenizer: lower case, split at white space and punctuation, ``</s>`` appended as T5 does. Any string can
be tokenised; a word outside the grammar becomes ``<unk>``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyflow_rt.benchmarks.shapes.captions import vocabulary

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")
MAX_PROMPT_LENGTH = 512
TEXT_CONFIG = {
    "d_model": 96,
    "d_kv": 24,
    "num_heads": 4,
    "d_ff": 256,
    "num_layers": 2,
    "dropout_rate": 0.0,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "feed_forward_proj": "gated-gelu",
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
    "use_cache": False,
}


def new_tokenizer() -> PreTrainedTokenizerFast:
    """The grammar's tokenizer, in the form transformers saves and loads."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = (*SPECIAL_TOKENS, *vocabulary())
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=MAX_PROMPT_LENGTH,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def new_text_encoder() -> UMT5EncoderModel:
    """A UMT5 encoder with fresh weights for `new_tokenizer`."""
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(UMT5Config(vocab_size=len(SPECIAL_TOKENS) + len(vocabulary()), **TEXT_CONFIG))


def encode_prompts(
    encoder: UMT5EncoderModel, token_ids: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt embeddings (B, S, E), zero past the mask, and the bias (B, 1) of one more key that stands for all padding.

    The pipeline pads prompts with zero rows to 512 positions, and cross-attention sees every one of them. Those past
    the S of this batch are identical, so together they weigh as much as one key with log(512 - S) added to its logit.
    """
    import math

    embeddings = encoder(input_ids=token_ids, attention_mask=mask).last_hidden_state * mask[..., None]
    bias = embeddings.new_full((len(token_ids), 1), math.log(MAX_PROMPT_LENGTH - token_ids.shape[1]))
    return embeddings, bias
