"""The peers' training loops on a case: sentence-transformers' trainer, and a GradCache-style two-pass loop.

Both train the very model that isoembed trains (`initial`), with the same pooling, loss, optimiser and order.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback

from isoembed.encoder.encoder import Encoder, enable_checkpointing
from isoembed.encoder.exported import PLAIN_TEXT
from isoembed.encoder.load import load_model
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.recipe import Recipe
from isoembed.training.loss import contrastive_loss
from isoembed.training.setup import adamw
from speed_case import Case, clock, ordered


@dataclass
class Trace:
    """Each step's loss in nats and the clock when it ended, after the clock at the start."""

    clock: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def initial(recipe: Recipe) -> Encoder:
    """The encoder before training, LoRA's random numbers too, as `isoembed.training.setup` makes it."""
    torch.manual_seed(recipe.seed)
    return Encoder(recipe.method.apply(load_model(recipe.model.source)), recipe.pooling)


class _Recorded(nn.Module):
    """A loss of sentence-transformers that notes what it returns."""

    def __init__(self, inner: nn.Module, trace: Trace) -> None:
        super().__init__()
        self.inner, self.trace = inner, trace

    def forward(self, *arguments: Any, **named: Any) -> torch.Tensor:
        loss: torch.Tensor = self.inner(*arguments, **named)
        self.trace.losses.append(loss.item())
        return loss


def _in_order(data: Dataset, batch_size: int, drop_last: bool, **_: Any) -> DefaultBatchSampler:
    return DefaultBatchSampler(SequentialSampler(data), batch_size, drop_last)


class _Clock(TrainerCallback):
    def __init__(self, trace: Trace, device: str) -> None:
        self.trace, self.device = trace, device

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.trace.clock.append(clock(self.device))

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.trace.clock.append(clock(self.device))


def sentence_transformers_loop(case: Case, folder: Path, recipe: Recipe, kind: str, size: int) -> Trace:
    """Its trainer with its symmetric in-batch loss, `plain`, `cached` in mini-batches of `size` texts, or
    `cached-tokens` in mini-batches of `size` tokens; texts are tokenised by its collator as it goes."""
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    trace, encoder = Trace(), initial(recipe)
    transformer = Transformer(str(folder / "model"), max_seq_length=case.context_tokens, **PLAIN_TEXT)
    transformer.model = encoder.model
    model = SentenceTransformer(modules=[transformer, Pooling(recipe.model.hidden, "mean")], device=case.device)
    # its two symmetric losses under their present names
    symmetric: dict[str, Any] = {
        "scale": 1 / case.temperature,
        "directions": ("query_to_doc", "doc_to_query"),
        "partition_mode": "per_direction",
    }
    match kind:
        case "plain":
            loss: nn.Module = losses.MultipleNegativesRankingLoss(model, **symmetric)
        case "cached":
            loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=size, **symmetric)
        case _:
            loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_num_tokens=size, **symmetric)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=case.batch_pairs,
        num_train_epochs=1,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        optim="adamw_torch_fused",
        batch_sampler=_in_order,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=case.device == "cpu",
        bf16=case.precision == "bf16",
        seed=case.seed,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(ordered(folder)),
        loss=_Recorded(loss, trace),
        callbacks=[_Clock(trace, case.device)],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train()
    return trace


def cached_loop(case: Case, folder: Path, recipe: Recipe, size: int, *, checkpointing: bool) -> Trace:
    """Gradient caching as its authors and the paper's do it: each side padded to its longest text, cut into chunks of
    `size` texts, every chunk run without a graph, then again with one."""
    encoder, tokenizer, pairs = initial(recipe), load_tokenizer(str(folder / "model")), ordered(folder)
    if checkpointing:
        enable_checkpointing(encoder.model)
    encoder.train()
    trainable = [value for value in encoder.parameters() if value.requires_grad]
    optimizer = adamw(trainable, recipe)
    trace = Trace([time.perf_counter()])
    for start in range(0, len(pairs), case.batch_pairs):
        rows = pairs[start : start + case.batch_pairs]
        sides = []
        for side in ("query", "positive"):
            padded = tokenizer(
                [row[side] for row in rows],
                padding=True,
                truncation=True,
                max_length=case.context_tokens,
                return_tensors="pt",
            )
            sides.append(list(zip(padded.input_ids.split(size), padded.attention_mask.split(size), strict=True)))
        with torch.no_grad():
            leaves = [torch.cat([encoder(*chunk) for chunk in chunks]).requires_grad_() for chunks in sides]
        loss = contrastive_loss(leaves[0], leaves[1], case.temperature)
        loss.backward()
        for leaf, chunks in zip(leaves, sides, strict=True):
            assert leaf.grad is not None
            for chunk, gradient_BD in zip(chunks, leaf.grad.split(size), strict=True):
                encoder(*chunk).backward(gradient_BD)
        nn.utils.clip_grad_norm_(trainable, recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        trace.losses.append(loss.item())
        trace.clock.append(time.perf_counter())
    return trace
