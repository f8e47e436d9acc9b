"""What the accounting needs to know of a pretrained decoder-only language model: counts and shapes, never weights."""

from __future__ import annotations

import math
from typing import Any, Literal, Protocol

from pydantic import Field, model_validator

from isoembed.core import Count, Frozen, InputError, PositiveInt, checked, number_of


class Dense(Frozen):
    """`count` dense layers of `inputs` x `outputs` inside the transformer blocks (what LoRA adapts)."""

    inputs: PositiveInt
    outputs: PositiveInt
    count: PositiveInt


class StoredFile(Frozen):
    """The file that a model's weights were read from, where that is not a folder of safetensors."""

    format: Literal["gguf"] = "gguf"
    quantisation: str = Field(description="how most weights are stored, as Q4_1 or F16")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="hash of the file's bytes")

    def __str__(self) -> str:
        """In words."""
        return f"{self.format.upper()} {self.quantisation}, sha256 {self.sha256[:16]}"


class ModelSpec(Frozen):
    """One pretrained model as the accounting sees it: the base model, without language-modelling head.

    Counts go by module type: everything held by an embedding module (token table, learned positions) is embedding,
    the rest is non-embedding.  Of experts, those count that a token is sent to: what it runs through is what it costs;
    `idle_params` are the others.  `source` is what the loader opens: a hub id, a folder, a GGUF file, or `nano/NAME`
    for a model that ships with isoembed.  With a `depth` all counts are those of the cut model.
    """

    name: str
    source: str
    depth: PositiveInt | None = Field(
        None, description="the first so many of the blocks at `source`, with its final norm; None: all of them"
    )
    whole: str | None = Field(None, description="name of the model that it is cut from; None where it is whole")
    file: StoredFile | None = Field(None, description="the file at `source`; None for a folder of safetensors")
    hidden: PositiveInt
    vocab: PositiveInt
    block_params: tuple[Count, ...] = Field(description="parameters of each transformer block, first to last")
    idle_block_params: tuple[Count, ...] = Field(
        (), description="parameters of each block that a token does not run through, experts not chosen; () without"
    )
    other_params: Count = Field(description="non-embedding parameters outside the blocks: final norm, projections")
    entry_params: Count = Field(0, description="those of `other_params` that run before the first block")
    embedding_params: Count
    bias_params: Count = Field(description="elements of all bias vectors outside embedding modules")
    norm_params: Count = Field(0, description="elements of all norms, weights and biases; 0 where nobody counted them")
    outer_bias_params: Count = Field(0, description="those of `bias_params` outside the blocks")
    outer_norm_params: Count = Field(0, description="those of `norm_params` outside the blocks")
    dense: tuple[Dense, ...] = Field(description="dense layers inside the blocks, grouped by shape")
    head_width: PositiveInt | None = Field(None, description="heads x mean head size where that is not `hidden`")
    context: PositiveInt = Field(description="longest sequence in tokens")
    pretraining_rate: float | None = Field(None, gt=0, description="published peak learning rate of pretraining")

    @model_validator(mode="before")
    @classmethod
    def _of_older_file(cls, given: Any) -> Any:
        """A cut model of before `whole` was kept is called NAME@DEPTH."""
        if not isinstance(given, dict) or given.get("depth") is None or given.get("whole") is not None:
            return given
        return {**given, "whole": str(given.get("name")).removesuffix(f"@{given['depth']}")}

    @property
    def blocks(self) -> int:
        """How many transformer blocks there are."""
        return len(self.block_params)

    @property
    def attention_width(self) -> int:
        """Width over all heads, of queries and values on average, which the FLOP of attention go by."""
        return self.head_width or self.hidden

    @property
    def params(self) -> int:
        """N: non-embedding parameters, with experts those that a token runs through."""
        return sum(self.block_params) + self.other_params

    @property
    def idle_params(self) -> int:
        """Parameters that a token does not run through: the experts it is not sent to."""
        return sum(self.idle_block_params)

    @property
    def total_params(self) -> int:
        """All there are: N, the embedding modules, the experts that a token is not sent to."""
        return self.params + self.embedding_params + self.idle_params

    @property
    def origin(self) -> str:
        """Where the weights are from, in words: the source, as what it is stored there, how much of it is used."""
        stored = "" if self.file is None else f" ({self.file})"
        cut = "" if self.depth is None else f", cut to {number_of(self.depth, 'block')}"
        return f"{self.source}{stored}{cut}"

    def first(self, depth: int) -> ModelSpec:
        """The model cut to its first `depth` blocks, named NAME@DEPTH; itself where these are all.

        For blocks that are all alike, as those of the built-in families are; any others are counted anew
        (`isoembed.encoder.shapes`).  Raises InputError where there are not so many blocks.
        """
        check_depth(depth, self.blocks, self.name)
        if depth == self.blocks:
            return self
        assert self.depth is None, "a model is cut once"
        assert len(set(self.block_params)) == 1
        return self.model_copy(
            update={
                "name": f"{self.name}@{depth}",
                "depth": depth,
                "whole": self.name,
                "block_params": self.block_params[:depth],
                "idle_block_params": self.idle_block_params[:depth],
                "bias_params": self._within(self.bias_params, self.outer_bias_params, depth),
                "norm_params": self._within(self.norm_params, self.outer_norm_params, depth),
                "dense": tuple(
                    layer.model_copy(update={"count": layer.count // self.blocks * depth}) for layer in self.dense
                ),
            }
        )

    def _within(self, total: int, outer: int, depth: int) -> int:
        """The share of `total` that lies in the first blocks, with `outer` outside of all."""
        each, rest = divmod(total - outer, self.blocks)
        assert not rest
        return each * depth + outer

    def same_shape(self, other: ModelSpec) -> bool:
        """Whether both are of one shape: width, blocks, heads, feed-forward layers, vocabulary."""
        return self._shape == other._shape and self._table == other._table

    def is_trimmed(self, whole: ModelSpec) -> bool:
        """Whether both are of one shape but for the vocabulary, of which this one has the smaller."""
        rows, params = (mine - its for mine, its in zip(self._table, whole._table, strict=True))
        return self._shape == whole._shape and rows < 0 and params == rows * self.hidden

    @property
    def _table(self) -> tuple[int, int]:
        return self.vocab, self.embedding_params

    @property
    def _shape(self) -> tuple[object, ...]:
        dense = frozenset((layer.inputs, layer.outputs, layer.count) for layer in self.dense)
        counts = (self.block_params, self.idle_block_params, self.other_params, self.entry_params)
        return (self.hidden, counts, self.bias_params, self.attention_width, dense)


def check_depth(depth: int, blocks: int, name: str) -> None:
    """Raise InputError unless a model of `blocks` can be cut to its first `depth`."""
    if not 1 <= depth <= blocks:
        raise InputError(f"`depth` must be 1 to {blocks}, the blocks of {name}; got {depth}.")


class Tuned(Protocol):
    """What a rule for learning rates asks a method (`isoembed.methods.base`)."""

    @property
    def name(self) -> str: ...
    @property
    def like(self) -> str | None: ...
    @property
    def default_rate(self) -> RateRule | None: ...
    @property
    def scale(self) -> float | None: ...
    def share(self, model: ModelSpec) -> float: ...


#: ln peak = WIDTH_RULE[0] + WIDTH_RULE[1] * ln hidden: least squares over the models of `families` whose pretraining
#: peak is published, the nano suite apart; typically off by a factor of 1.9 (tests/families/test_rates.py refits it)
WIDTH_RULE = (-2.7665, -0.7079)


def width_rate(hidden: int) -> float:
    """A tenth of the pretraining peak that suits a model of this width, where none was published."""
    constant, exponent = WIDTH_RULE
    return 0.1 * math.exp(constant + exponent * math.log(hidden))


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
    """Peak learning rate of one method: a measured law, a share of the model's pretraining peak, a multiple of full
    fine-tuning's, or one number for all sizes.

    Of adapters, for the scale that it was stated at.  Under AdamW a step moves a factor's values by about the rate
    whatever the scale, and the layer by scale x rate: at another scale the rate is the stated one over the scales'
    ratio, to first order.
    """

    method: str
    law: RateLaw | None = None
    of_pretraining: float | None = None
    of_full: float | None = None
    fixed: float | None = None
    alpha: float | None = Field(None, gt=0, description="adapters: stated at this alpha, whatever the rank")
    scale: float | None = Field(None, gt=0, description="adapters: stated at this scale, alpha / rank")
    along: Literal["size", "depth"] = Field("size", description="what the models differed in on which it was measured")
    like: str | None = Field(None, description="the method that was measured, where this one is taken to be alike")
    source: str = Field(description="who measured or published it, on what")

    def rescaled(self, rate: float, model: ModelSpec, method: Tuned) -> float:
        """The stated `rate` at the scale of the method's adapters."""
        stated = self.scale if self.alpha is None else self.alpha / (method.share(model) * model.hidden)
        return rate if stated is None or method.scale is None else rate * stated / method.scale


_BY_WIDTH = (
    "a tenth of the pretraining peak by a rule from the width, fitted to the published peaks of Pythia, OPT, BLOOM, "
    "OLMo 2 and SmolLM; unmeasured here"
)
_A_TENTH = (
    "a tenth of the published pretraining peak, unmeasured here; half of it was best over 60 steps on SmolLM2's first "
    "blocks"
)
#: rates for a family on which nobody measured any: the paper's rules, carried over from Pythia
BORROWED_RATES = (
    RateRule(method="full", of_pretraining=0.1, source=_A_TENTH),
    RateRule(method="freeze", of_pretraining=0.1, source=_A_TENTH),
    RateRule(method="bias", fixed=1e-3, source="1e-3, the paper's for Pythia; unmeasured here"),
    RateRule(
        method="lora",
        of_full=10.0,
        alpha=32.0,
        source="ten times full fine-tuning's at alpha 32 (Schulman et al. 2025), as 1 / alpha; unmeasured here",
    ),
)


class MethodRule(Frozen):
    """A published rule for the method: full fine-tuning up to a budget, LoRA above, within the budgets of its runs."""

    full_up_to_flop: float = Field(gt=0)
    range_flop: tuple[float, float] = Field(description="lowest and highest budget at which it was found")
    ranks: tuple[int, ...] = Field(min_length=1, description="of LoRA: the one to take, and others as good")
    source: str


class Family(Frozen):
    """A suite of models pretrained alike that differ in size, or one model cut at several depths, smallest first, with
    the defaults that suit them."""

    name: str
    models: tuple[ModelSpec, ...]
    along: Literal["size", "depth"] = Field(
        "size", description="what its models differ in: they were pretrained apart, or are cuts of one"
    )
    about: str = ""
    batch_pairs: int = 1024
    context_tokens: int = 75
    tokens_per_param: float = Field(
        20.0, description="training tokens per non-embedding parameter: provisional size rule"
    )
    size_at_flop: float | None = Field(None, gt=0, description="the budget of `tokens_per_param`; None: at every one")
    size_exponent: float = Field(0.0, description="tokens per parameter go as the budget to this power")
    size_rule: str = Field(
        "20 tokens per parameter as in Hoffmann et al. 2022 for pretraining, for want of a measurement",
        description="where `tokens_per_param` comes from",
    )
    rates: tuple[RateRule, ...] = ()
    method_rule: MethodRule | None = None

    def tokens_per_param_at(self, flop: float) -> float:
        """Tokens per parameter that the provisional size rule asks for at a budget."""
        if self.size_at_flop is None:
            return self.tokens_per_param
        return float(self.tokens_per_param * (flop / self.size_at_flop) ** self.size_exponent)

    def is_called(self, name: str) -> bool:
        """Whether `name` is the family's; capitals make no difference."""
        return self.name.casefold() == name.casefold()

    def has(self, name: str) -> bool:
        """Whether a model is called `name`; capitals make no difference."""
        return bool(self._called(name))

    def _called(self, name: str) -> list[ModelSpec]:
        return [model for model in self.models if model.name.casefold() == name.casefold()]

    @checked
    def model(self, name: str) -> ModelSpec:
        """The model called `name`, whatever its capitals; raises InputError naming the ones there are."""
        if found := self._called(name):
            return min(found, key=lambda model: model.name != name)  # as it is written, where two differ by capitals
        known = ", ".join(model.name for model in self.models)
        raise InputError(f"`model` must be one of the {self.name} family ({known}); got {name!r}.")

    def rate_rule(self, method: str, like: str | None = None, default: RateRule | None = None) -> RateRule:
        """The family's rule for `method`, else the method's own `default`, else that of the method `like` it; one
        without a number where nobody stated any."""
        for rule in self.rates:
            if rule.method == method:
                return rule
        if default is not None:
            return default
        if like is not None:
            rule = self.rate_rule(like)
            return rule.model_copy(update={"method": method, "like": rule.like or like})
        return RateRule(method=method, source=_BY_WIDTH)

    def peak_rate(self, model: ModelSpec, method: Tuned, *, steps: int) -> tuple[float, RateRule]:
        """The peak learning rate of `method` on `model` for a run of `steps`, and the rule that says so."""
        rule = self.rate_rule(method.name, method.like, method.default_rate)
        if rule.law is not None:
            return rule.rescaled(rule.law.rate(model.params, steps, method.share(model)), model, method), rule
        if rule.of_pretraining is not None and model.pretraining_rate is not None:
            return rule.of_pretraining * model.pretraining_rate, rule
        if rule.of_full is not None:
            return rule.rescaled(rule.of_full * self._full_rate(model), model, method), rule
        if rule.fixed is not None:
            return rule.rescaled(rule.fixed, model, method), rule
        return width_rate(model.hidden), RateRule(method=method.name, source=_BY_WIDTH)

    def _full_rate(self, model: ModelSpec) -> float:
        """Full fine-tuning's, where that is a share of the pretraining peak."""
        share, peak = self.rate_rule("full").of_pretraining, model.pretraining_rate
        return width_rate(model.hidden) if share is None or peak is None else share * peak
