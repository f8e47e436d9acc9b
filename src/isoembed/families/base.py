"""What the accounting needs to know of a pretrained decoder-only language model: counts and shapes, never weights."""

from __future__ import annotations

import math

from pydantic import Field

from isoembed.core import Frozen, InputError


class Dense(Frozen):
    """`count` dense layers of `inputs` x `outputs` inside the transformer blocks (what LoRA adapts)."""

    inputs: int
    outputs: int
    count: int


class ModelSpec(Frozen):
    """One pretrained model as the accounting sees it: the base model, without language-modelling head.

    Counts go by module type: everything held by an embedding module (token table, learned positions) is embedding,
    the rest is non-embedding.  `source` is what the loader opens: a hub id, a folder, or `nano/NAME` for a model that
    ships with isoembed.
    """

    name: str
    source: str
    hidden: int
    vocab: int
    block_params: tuple[int, ...] = Field(description="parameters of each transformer block, first to last")
    other_params: int = Field(description="non-embedding parameters outside the blocks: final norm, projections")
    entry_params: int = Field(0, description="those of `other_params` that run before the first block")
    embedding_params: int
    bias_params: int = Field(description="elements of all bias vectors outside embedding modules")
    dense: tuple[Dense, ...] = Field(description="dense layers inside the blocks, grouped by shape")
    head_width: int | None = Field(None, description="attention heads x head size where that is not `hidden`")
    context: int = Field(description="longest sequence in tokens")
    pretraining_rate: float | None = Field(None, description="published peak learning rate of pretraining")

    @property
    def blocks(self) -> int:
        return len(self.block_params)

    @property
    def attention_width(self) -> int:
        """Width of queries over all heads, which the FLOP of attention go by."""
        return self.head_width or self.hidden

    @property
    def params(self) -> int:
        """N: non-embedding parameters."""
        return sum(self.block_params) + self.other_params

    @property
    def total_params(self) -> int:
        """N with the embedding modules."""
        return self.params + self.embedding_params


class RateLaw(Frozen):
    """Peak learning rate as a product of powers: exp(constant) * N^params * steps^steps * share^share.

    `share` is the method's hyperparameter relative to the model: the active fraction, or LoRA's rank / hidden; 1 for
    a method without one.
    """

    constant: float
    params: float
    steps: float
    share: float = 0.0

    def rate(self, params: int, steps: int, share: float) -> float:
        """The peak rate for a model of `params` non-embedding parameters trained for `steps`."""
        powers = self.params * math.log(params) + self.steps * math.log(steps) + self.share * math.log(share)
        return math.exp(self.constant + powers)


class RateRule(Frozen):
    """Peak learning rate of one method: a measured law, a share of the model's pretraining peak, or one number for all
    sizes."""

    method: str
    law: RateLaw | None = None
    of_pretraining: float | None = None
    fixed: float | None = None
    source: str


class Family(Frozen):
    """A suite of models pretrained alike that differ in size, smallest first, with the defaults that suit them."""

    name: str
    models: tuple[ModelSpec, ...]
    about: str = ""
    batch_pairs: int = 1024
    context_tokens: int = 75
    tokens_per_param: float = Field(
        20.0, description="training tokens a non-embedding parameter: provisional size rule"
    )
    size_rule: str = Field(
        "20 tokens a parameter as in Hoffmann et al. 2022 for pretraining, for want of a measurement",
        description="where `tokens_per_param` comes from",
    )
    rates: tuple[RateRule, ...] = ()

    def model(self, name: str) -> ModelSpec:
        """The model called `name`; raises InputError naming the ones there are."""
        for model in self.models:
            if model.name == name:
                return model
        known = ", ".join(model.name for model in self.models)
        raise InputError(f"`model` must be one of the {self.name} family ({known}); got {name!r}.")

    def rate_rule(self, method: str) -> RateRule:
        """The family's rule for `method`; one without a number where nobody stated any."""
        for rule in self.rates:
            if rule.method == method:
                return rule
        return RateRule(method=method, source="unknown")

    def peak_rate(self, model: ModelSpec, method: str, *, steps: int, share: float) -> tuple[float, str]:
        """The peak learning rate of `method` on `model` for a run of `steps`, and where it comes from.

        `share` is the method's hyperparameter relative to the model (`BaseMethod.share`).
        """
        rule = self.rate_rule(method)
        if rule.law is not None:
            return rule.law.rate(model.params, steps, share), f"learning rate: {rule.source}"
        if rule.of_pretraining is not None and model.pretraining_rate is not None:
            return rule.of_pretraining * model.pretraining_rate, f"learning rate: {rule.source}"
        if rule.fixed is not None:
            return rule.fixed, f"learning rate: {rule.source}"
        return 0.05 / model.hidden, (
            "learning rate: 0.05 / hidden width, read off Pythia's published pretraining rates / 10; unmeasured here"
        )


def gpt_neox(
    name: str, source: str, hidden: int, blocks: int, vocab: int, context: int, pretraining_rate: float | None
) -> ModelSpec:
    """The spec of a GPT-NeoX model: fused query-key-value, parallel residual, two norms a block, biases everywhere.

    A block holds 12 hidden^2 weights and 13 hidden biases and norm parameters (9 of them biases of dense layers, 2
    biases of norms, 2 norm weights); the last norm holds 2 hidden.
    """
    return ModelSpec(
        name=name,
        source=source,
        hidden=hidden,
        vocab=vocab,
        block_params=(12 * hidden**2 + 13 * hidden,) * blocks,
        other_params=2 * hidden,
        embedding_params=vocab * hidden,
        bias_params=(9 + 2) * hidden * blocks + hidden,
        dense=(
            Dense(inputs=hidden, outputs=3 * hidden, count=blocks),
            Dense(inputs=hidden, outputs=hidden, count=blocks),
            Dense(inputs=hidden, outputs=4 * hidden, count=blocks),
            Dense(inputs=4 * hidden, outputs=hidden, count=blocks),
        ),
        context=context,
        pretraining_rate=pretraining_rate,
    )
