"""The static tables against published numbers and against transformers' own models on the meta device."""

from importlib.resources import files

import pytest
import torch
from transformers import AutoModel, GPTNeoXConfig

from isoembed.core import InputError
from isoembed.encoder.load import load_model, load_tokenizer
from isoembed.encoder.shapes import spec_of
from isoembed.families import NANO, PYTHIA, Family, ModelSpec, family_named

#: Biderman et al. 2023 and the paper's section 3.5: parameters without the token table and the head
PUBLISHED = {
    "pythia-14m": 1_189_888,
    "pythia-31m": 4_739_072,
    "pythia-70m": 18_915_328,
    "pythia-160m": 85_056_000,
    "pythia-410m": 302_311_424,
    "pythia-1b": 805_736_448,
    "pythia-1.4b": 1_208_602_624,
    "pythia-2.8b": 2_517_652_480,
}
HEADS = {"pythia-14m": 4, "pythia-160m": 12, "pythia-410m": 16, "pythia-1.4b": 16, "pythia-2.8b": 32}


def test_pythia_counts_are_the_published_ones() -> None:
    assert {model.name: model.params for model in PYTHIA.models} == PUBLISHED


@pytest.mark.parametrize("spec", [*PYTHIA.models, *NANO.models], ids=lambda spec: spec.name)
@pytest.mark.parametrize("tied", [True, False])
def test_tables_equal_the_real_model(spec: ModelSpec, tied: bool) -> None:
    config = GPTNeoXConfig(
        vocab_size=spec.vocab,
        hidden_size=spec.hidden,
        num_hidden_layers=spec.blocks,
        num_attention_heads=HEADS.get(spec.name, 8),
        intermediate_size=4 * spec.hidden,
        max_position_embeddings=spec.context,
        tie_word_embeddings=tied,
        eos_token_id=0,
    )
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    counted = spec_of(model, spec.name, spec.source)
    assert counted == spec.model_copy(update={"pretraining_rate": None})
    assert counted.total_params == sum(value.numel() for value in model.parameters())


@pytest.mark.parametrize("spec", NANO.models, ids=lambda spec: spec.name)
def test_tables_equal_what_ships(spec: ModelSpec) -> None:
    if not (files("isoembed") / "assets" / spec.source).is_dir():
        pytest.skip(f"{spec.name} is not pretrained yet")
    counted = spec_of(load_model(spec.source), spec.name, spec.source)
    assert counted == spec.model_copy(update={"pretraining_rate": None})
    assert len(load_tokenizer(spec.source)) <= spec.vocab


@pytest.mark.parametrize("family", [NANO, PYTHIA], ids=lambda family: family.name)
def test_sizes_ascend_and_are_found_by_name(family: Family) -> None:
    assert [model.params for model in family.models] == sorted(model.params for model in family.models)
    assert family_named(family.name) is family
    for model in family.models:
        assert family.model(model.name) is model


def test_unknown_names_are_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match="nano, pythia; got 'llama'"):
        family_named("llama")
    with pytest.raises(InputError, match=r"pythia-2\.8b\); got 'pythia-12b'"):
        PYTHIA.model("pythia-12b")
