"""What each model of a family holds, costs a token and needs in memory, method by method, before anything is run."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, computed_field

from isoembed.core import Frozen, InputError
from isoembed.estimates import training_memory
from isoembed.families import Family, ModelSpec
from isoembed.methods import TRAINED, BaseMethod
from isoembed.notes import Noted, Refusal, refusal_of
from isoembed.recipe import DataStats


class MethodFacts(Noted):
    """One method, at its default hyperparameters, on one model."""

    described: ClassVar = {"why_not": "refused"}

    notes: tuple[Refusal, ...] = Field((), description="why the method cannot train this model")
    method: str
    label: str
    flop_per_token: int | None = Field(None, description="model FLOP of one training token; None where it cannot train")
    updated_params: int | None = None
    memory_bytes: float | None = Field(
        None, description="estimate of what training needs at least, with the smallest mini-batch"
    )

    @computed_field  # type: ignore[prop-decorator]
    @property
    def why_not(self) -> str | None:
        """Why the method cannot train this model, in words."""
        return self._first_sentence("refused")


class ModelFacts(Frozen):
    """One model: counts by module type, and what each method asks of it."""

    name: str
    source: str
    params: int = Field(description="N: non-embedding parameters, in which all costs and laws are stated")
    idle_params: int = Field(description="parameters of experts that a token is not sent to: in memory, not in N")
    embedding_params: int
    total_params: int
    hidden: int
    blocks: int
    vocab: int
    context: int
    bias_params: int
    norm_params: int
    pretraining_rate: float | None = Field(None, description="published peak learning rate of pretraining")
    methods: tuple[MethodFacts, ...]


def facts(family: Family) -> tuple[ModelFacts, ...]:
    """All of a family's models, smallest first, under every method at its defaults and the family's batch."""
    return tuple(
        ModelFacts(
            **{name: getattr(model, name) for name in ModelFacts.model_fields if name != "methods"},
            methods=tuple(_method_facts(model, method(), family) for method in TRAINED),
        )
        for model in family.models
    )


def _method_facts(model: ModelSpec, method: BaseMethod, family: Family) -> MethodFacts:
    name = method.called()
    try:
        cost = method.cost(model)
    except InputError as error:
        return MethodFacts(method=name, label=method.label, notes=(refusal_of(error),))
    return MethodFacts(
        method=name,
        label=method.label,
        flop_per_token=cost.flop_per_token,
        updated_params=cost.trained,
        memory_bytes=training_memory(
            model,
            cost,
            batch_tokens=family.batch_pairs * DataStats().tokens_per_pair,
            batch_pairs=family.batch_pairs,
            context_tokens=family.context_tokens,
        ).least,
    )
