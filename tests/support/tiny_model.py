"""A causal language model of 0.1 M parameters with its tokenizer, written to disk in a second.

* Qwen2 architecture, untied embeddings, heads of 32: what vLLM serves on a CPU.
* Random weights, scaled so that next-token distributions are peaked rather than flat.
* The same arguments give the same files.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Final

import torch
from tokenizers import AddedToken
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

PAD: Final = "<pad>"
EOS: Final = "<eos>"
ANSWER_TAGS: Final = ("<answer>", "</answer>")
BYTE_LEVEL_SPACE: Final = "\u0120"
CHARACTERS: Final = string.digits + BYTE_LEVEL_SPACE + "+-*=.,:?()" + string.ascii_lowercase
MIN_VOCAB_SIZE: Final = 2 + len(ANSWER_TAGS) + len(CHARACTERS)


def make_tiny_model(
    path: Path, *, vocab_size: int = 64, seed: int = 0, max_position_embeddings: int = 1024
) -> Path:
    """Write model, tokenizer and generation settings to the folder ``path`` and return it.

    One token is one character (lower case, digits, a few signs) or one of `ANSWER_TAGS`, which have
    the last two ids; the ids before them are fillers. Token 0 pads, token 1 ends a response.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(f"vocab_size is {vocab_size}; allowed is {MIN_VOCAB_SIZE} or more")
    make_tiny_tokenizer(vocab_size).save_pretrained(path)
    config = Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=max_position_embeddings,
        initializer_range=0.2,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=True, eos_token_id=1, pad_token_id=0)
    model.save_pretrained(path)
    return path


def make_tiny_tokenizer(vocab_size: int = 64) -> Qwen2Tokenizer:
    """The tokenizer of `make_tiny_model`, in memory; characters it does not know vanish."""
    words = [PAD, EOS, *CHARACTERS]
    words += [f"<filler{index}>" for index in range(vocab_size - len(words) - len(ANSWER_TAGS))]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary, merges=[], pad_token=PAD, eos_token=EOS, unk_token=EOS
    )
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in ANSWER_TAGS])
    return tokenizer
