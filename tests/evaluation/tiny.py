"""A tiny random decoder and tokenizer in a folder, as a user would have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTNeoXConfig, GPTNeoXModel, PreTrainedTokenizerFast

from isoembed.encoder.encoder import Encoder
from isoembed.encoder.load import load_model
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.recipe import PoolingName

TEXTS = (
    "open a file and read its lines",
    "sort a list of numbers in place",
    "a",
    "the quick brown fox jumps over the lazy dog",
    "compute the mean of an array along an axis",
    "parse a date",
    "word " * 60,  # longer than any context used here
    "send a request to a server and wait for the response, or fail after a number of seconds",
)


def write_model(
    folder: Path, *, dropout: float = 0.0, padding_side: str = "right", chat_template: str | None = None
) -> Path:
    """Write a two-block GPT-NeoX of width 16 and a byte-level tokenizer to `folder`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<end>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS, trainer)
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<end>", pad_token="<pad>", padding_side=padding_side, model_max_length=64
    )
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout=dropout,
        initializer_range=0.5,  # large, so that random texts' embeddings differ well beyond rounding
    )
    GPTNeoXModel(config).save_pretrained(folder)
    return folder


def load(folder: Path, pooling: PoolingName = "mean") -> tuple[Encoder, PreTrainedTokenizerFast]:
    """Encoder and tokenizer of `folder`, in evaluation mode."""
    tokenizer = load_tokenizer(str(folder), pooling=pooling)
    return Encoder(load_model(str(folder)), pooling).eval(), tokenizer
