"""Any one model as a family along its depth: how it is named, what its cuts count, what it hands on."""

import pytest

from isoembed.core import InputError
from isoembed.families import FAMILIES, NANO, ModelSpec, family_named
from isoembed.families.base import BORROWED_RATES, StoredFile
from isoembed.families.depth import Reference, along_depth, default_depths
from isoembed.families.known import family_of
from isoembed.methods import Freeze, Full, LoRA, Method, Norms
from isoembed.recipe import DataStats, Recipe, Setup, solve
from isoembed.recommendation.recommend import recommend

SMOL = family_named("smollm2")


@pytest.mark.parametrize(
    ("text", "source", "depths"),
    [
        ("smollm2-135m", "smollm2-135m", None),
        ("smollm2-135m@6", "smollm2-135m", (6,)),
        ("HuggingFaceTB/SmolLM2-135M@6", "HuggingFaceTB/SmolLM2-135M", (6,)),
        ("/a/b.gguf@2,4,2", "/a/b.gguf", (2, 4)),
        ("smollm2-135m@", "smollm2-135m", ()),
        ("./mine@home/model@3", "./mine@home/model", (3,)),
    ],
)
def test_a_reference_is_read_once(text: str, source: str, depths: tuple[int, ...] | None) -> None:
    assert Reference.parse(text) == Reference(source=source, depths=depths)


@pytest.mark.parametrize("text", ["a@x", "@6", "@", "a@00", "a@-1", "a@2,", "a@main", "a@²", "a@" + "9" * 6000])
def test_what_names_no_depth_is_refused(text: str) -> None:
    """`²` is a digit to Python, and a number of thousands of digits is none that it reads."""
    with pytest.raises(InputError, match="must be a number of blocks, as NAME@6"):
        Reference.parse(text)


def test_a_place_with_such_a_name_is_meant_itself() -> None:
    assert Reference.parse("runs@6", is_place=lambda place: place == "runs@6") == Reference(source="runs@6")


def test_depths_are_dense_where_models_are_small() -> None:
    assert default_depths(30) == (1, 2, 3, 4, 6, 8, 12, 16, 24, 30)
    assert default_depths(4) == (1, 2, 3, 4)
    assert default_depths(1) == (1,)


@pytest.mark.parametrize(
    "model", [model for family in FAMILIES for model in family.models], ids=lambda model: model.name
)
def test_cuts_of_built_in_models_add_up(model: ModelSpec) -> None:
    """One more block is always as much more, of everything; what lies outside the blocks stays."""
    one, two = model.first(1), model.first(2)
    assert model.first(model.blocks) is model
    assert (one.embedding_params, one.other_params, one.entry_params) == (
        model.embedding_params, model.other_params, model.entry_params,
    )  # fmt: skip
    for field in ("params", "bias_params", "norm_params"):
        first, second, whole = (getattr(each, field) for each in (one, two, model))
        assert whole == first + (second - first) * (model.blocks - 1)
    assert [layer.count for layer in model.dense] == [layer.count * model.blocks for layer in one.dense]
    for depth in (0, model.blocks + 1):
        with pytest.raises(InputError, match=f"1 to {model.blocks}, the blocks of {model.name}"):
            model.first(depth)


def test_a_cut_model_knows_the_whole_one_and_older_files_of_it_are_equal() -> None:
    """Also its runs: what names the whole model is no part of their key."""
    model = SMOL.models[0]
    cut = model.first(6)
    assert (cut.name, cut.whole, model.whole) == ("smollm2-135m@6", "smollm2-135m", None)
    older = cut.model_dump(exclude={"whole"})
    assert ModelSpec.model_validate(older) == cut
    assert ModelSpec.model_validate(cut.model_dump()) == cut
    recipe = solve(1e15, cut, Full(), 1e-3, Setup(batch_pairs=64, context_tokens=75), DataStats(), family="x")
    bare = recipe.model_copy(update={"model": cut.model_copy(update={"whole": None})})
    assert recipe.key == bare.key
    assert recipe.key_without("seed") == bare.key_without("seed")


def test_a_family_along_depth_takes_over_what_its_model_has() -> None:
    whole = SMOL.models[0]
    family = along_depth(SMOL, whole, (6, 30, 2, 6))
    assert (family.name, family.along) == ("smollm2-135m@", "depth")
    assert [model.name for model in family.models] == ["smollm2-135m@2", "smollm2-135m@6", "smollm2-135m"]
    assert family.models[-1] is whole
    assert [model.depth for model in family.models] == [2, 6, None]
    other = family_named("smollm3")
    cut = along_depth(other, other.models[0], (2,))
    for each in (cut, other):
        assert (
            each.peak_rate(cut.models[0], Full(), steps=100)[0]
            == other.peak_rate(other.models[0], Full(), steps=100)[0]
        )
    # of the three only the cuts of a model on which nobody measured a cut
    for each, carried in ((cut, True), (other, False), (family, False)):
        said = recommend(1e16, each, method="full").assumed
        assert any("carried over to first blocks" in line for line in said) == carried


@pytest.mark.parametrize(
    ("depth", "method", "measured"),
    [
        (1, Full(), 2.12e-3),
        (4, Full(), 1.41e-3),
        (4, Freeze(fraction=0.25), 5.38e-3),
        (1, LoRA(rank=36, alpha=72), 4.20e-3),
        (4, LoRA(rank=288, alpha=576), 8.9e-4),
        (4, LoRA(rank=288, alpha=288), 1.78e-3),
        (1, Norms(), 1.21e-2),
    ],
)
def test_the_rates_of_smollm2_are_those_measured_on_its_cuts(depth: int, method: Method, measured: float) -> None:
    """Ten times the rule for want of a measurement: at a tenth of the pretraining peak full fine-tuning of one block is
    a nat behind."""
    cut = along_depth(SMOL, SMOL.models[0], (1, 4))
    rate, rule = cut.peak_rate(cut.model(f"smollm2-135m@{depth}"), method, steps=60)
    assert rate == pytest.approx(measured, rel=0.03)
    assert (rule.like, rule.along) == (None, "depth")


def recipe(model: ModelSpec, family: str = "nano") -> Recipe:
    setup = Setup(batch_pairs=32, context_tokens=64)
    return solve(1e11, model, Full(), 1e-3, setup, DataStats.assumed(64), family=family)


def test_a_depth_is_another_run_and_no_depth_the_run_it_was() -> None:
    """Keys of runs made before models had depths: fails where a new field is part of them."""
    whole = NANO.models[0]
    assert recipe(whole).key == "913513df4719dd47"
    assert recipe(whole).key != recipe(whole.first(2)).key
    uncounted = whole.model_copy(update={"norm_params": 0, "outer_norm_params": 0, "outer_bias_params": 0})
    assert recipe(uncounted).key == recipe(whole).key
    assert recipe(uncounted).key_without("seed") == recipe(whole).key_without("seed")


def test_a_model_is_known_by_its_shape() -> None:
    file = StoredFile(quantisation="Q4_1", sha256="0" * 64)
    mine = SMOL.models[0].model_copy(
        update={"name": "mine", "source": "/mine", "pretraining_rate": None, "context": 2048, "file": file}
    )
    family = family_of(mine)
    (model,) = family.models
    assert (family.name, model.name, model.source, model.context, model.file) == (
        "smollm2", "smollm2-135m", "/mine", 2048, file,
    )  # fmt: skip
    assert family.peak_rate(model, Full(), steps=100) == SMOL.peak_rate(SMOL.models[0], Full(), steps=100)
    for other in ({"vocab": 49_153}, {"other_params": 577}, {"block_params": (1, *mine.block_params[1:])}):
        unknown = family_of(mine.model_copy(update=other))
        assert (unknown.name, unknown.models[0].name, unknown.rates) == ("custom", "mine", BORROWED_RATES)


def test_the_export_of_a_cut_has_the_rates_of_the_cut() -> None:
    """It fell back to the rule of width, 25 times lower."""
    whole = SMOL.models[0]
    cut = along_depth(SMOL, whole, [2])
    exported = cut.models[0].model_copy(update={"name": "g1", "source": "./g1", "depth": None, "whole": None})
    family = family_of(exported)
    assert (family.name, family.along, family.models[0].name) == ("smollm2-135m@", "depth", "g1")
    assert family.peak_rate(family.models[0], Full(), steps=100) == cut.peak_rate(cut.models[0], Full(), steps=100)
    trimmed = exported.model_copy(
        update={"vocab": exported.vocab - 100, "embedding_params": exported.embedding_params - 100 * exported.hidden}
    )
    assert family_of(trimmed).name == "smollm2-135m@"


def test_no_two_built_in_models_are_of_one_shape() -> None:
    """Else a folder would be known for the first of them."""
    models = [model for family in FAMILIES for model in family.models]
    assert [[other.name for other in models if other.same_shape(model)] for model in models] == [
        [model.name] for model in models
    ]
