"""What a user may name as family and model, and which it means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import isoembed
from isoembed.cli import app
from isoembed.core import InputError
from isoembed.families import NANO
from isoembed.workflows.models import chosen, family_named, members, source_of, suite
from tests.commands import command
from tests.models import configs


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def named(*asked: Any) -> tuple[str, str | None, list[str]]:
    family, model = chosen(*asked)
    return family.name, model, [each.name for each in family.models]


def test_whole_models_are_found_as_ever() -> None:
    suite = [model.name for model in NANO.models]
    assert named(None, None) == ("nano", None, suite)
    assert named("nano", "nano-28k") == named(None, "nano-28k") == named(None, "nano/nano-28k")
    assert named(None, "nano-28k") == ("nano", "nano-28k", suite)
    with pytest.raises(InputError, match="one of the nano family"):
        chosen("nano", "gpt2")


@pytest.mark.parametrize("asked", [(None, "nano-28k@2"), ("nano", "nano-28k", 2), (None, "nano/nano-28k", 2)])
def test_a_cut_model_is_of_the_family_along_its_depth(asked: Any) -> None:
    """So a law measured along the depth speaks of it, and one measured on whole models does not."""
    assert named(*asked) == ("nano-28k@", "nano-28k@2", ["nano-28k@1", "nano-28k@2", "nano-28k@3", "nano-28k"])


def test_a_cut_to_all_blocks_is_the_model() -> None:
    assert chosen(None, "nano-28k@4") == chosen(None, "nano-28k", 4) == chosen(None, "nano-28k")


def test_a_family_along_depth_and_one_of_its_cuts() -> None:
    assert named("nano-28k@", None) == ("nano-28k@", None, ["nano-28k@1", "nano-28k@2", "nano-28k@3", "nano-28k"])
    assert named("nano-28k@4,1", None) == ("nano-28k@", None, ["nano-28k@1", "nano-28k"])
    assert named("nano-28k@1", "nano-28k@3") == ("nano-28k@", "nano-28k@3", ["nano-28k@1", "nano-28k@3"])
    assert named("nano-28k@1", "nano-28k") == ("nano-28k@", "nano-28k", ["nano-28k@1", "nano-28k"])
    family, _ = chosen("nano-28k@", None)
    assert members(family, None) == tuple(model.name for model in family.models)
    assert members(family, "nano-28k@4,nano-28k@1,nano-28k") == ("nano-28k", "nano-28k@1")


@pytest.mark.parametrize("shape", ["tiny", "smollm2-135m"])
def test_a_cut_of_a_folder_goes_by_the_name_that_tables_show(shape: str, tmp_path: Path) -> None:
    """`--family FILE.gguf@ --model smollm2-135m@1` was refused: that name was the hub's model."""
    folder = tmp_path / "base"
    configs()["llama"].save_pretrained(folder)
    if shape != "tiny":
        known = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152}
        known |= {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", **known}))
    family, _ = chosen(f"{folder}@", None)
    name = family.models[0].name
    assert name == ("base@1" if shape == "tiny" else "smollm2-135m@1")
    assert chosen(f"{folder}@", name)[1] == chosen(f"{folder}@", f"{folder}@1")[1] == name
    assert members(family, name) == (name,)
    assert {model.source for model in chosen(f"{folder}@", name)[0].models} == {str(folder)}


def test_cuts_of_one_model_are_a_family_without_its_name() -> None:
    """Fails where they are looked for in the family that ships, or a cut of another model is taken for one of these."""
    for family, names in ((None, "nano-28k@3,nano-28k@1"), ("nano-28k@1,3", None)):
        found, models = suite(family, names)
        assert (found.name, models) == ("nano-28k@", ("nano-28k@1", "nano-28k@3"))
    assert suite(None, "nano-28k@2,nano-28k")[1] == ("nano-28k@2", "nano-28k")
    assert suite(None, None) == (NANO, tuple(model.name for model in NANO.models))
    assert suite("nano", "nano-28k")[1] == ("nano-28k",)
    with pytest.raises(InputError, match="must be cuts of one model, as X@2,X@6; got nano-28k and nano-51k"):
        suite(None, "nano-28k@2,nano-51k@2")
    with pytest.raises(InputError, match="`model` must be a cut of nano-28k, as nano-28k@2; got nano-51k"):
        suite("nano-28k@", "nano-51k@2")


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        ((None, "nano-28k@5"), "`depth` must be 1 to 4, the blocks of nano-28k; got 5"),
        ((None, "nano-28k@2", 3), "`depth` must be that of the model's name; got 3 and @2"),
        ((None, "nano-28k@2,3"), "must be one model, as nano-28k@6; several depths are a family"),
        ((None, "nano-28k@"), "must be one model"),
        ((None, "nano-28k", 0), "must be 1 to 4"),
        ((None, None, 2), "`depth` must come with `model`"),
        (("nano-28k@9", None), "must be 1 to 4"),
        (("nano-28k@", "nano-51k@2"), "`model` must be a cut of nano-28k, as nano-28k@2; got nano-51k"),
        (("none@", None), "cannot be read"),
    ],
)
def test_what_cannot_be_meant_is_refused(asked: Any, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=rule.replace("(", r"\(")):
        chosen(*asked)


def test_a_built_in_model_is_meant_whatever_its_capitals_and_a_path_is_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Pythia-70M` ended in "the hub cannot be reached", and so did a slash behind a hub id."""
    for name in ("Pythia-70M", "eleutherai/pythia-70m", "EleutherAI/pythia-70m/"):
        assert chosen(None, name)[1] == "pythia-70m"
    assert family_named("SmolLM2-135M@2").models[0].name == "smollm2-135m@2"
    assert source_of("NANO-28K") == "nano/nano-28k"
    assert source_of("Org/Other") == "Org/Other"
    assert members(NANO, "Nano-28K") == ("nano-28k",)
    assert suite(None, "Nano-28K@1,nano-28k@2")[1] == ("nano-28k@1", "nano-28k@2")
    monkeypatch.chdir(tmp_path)
    configs()["llama"].save_pretrained(tmp_path / "nano")
    assert family_named("nano") == NANO
    assert family_named(Path("nano")).models[0].source == str(tmp_path / "nano")


def test_a_member_that_is_none_is_refused() -> None:
    family, _ = chosen("nano-28k@1,4", None)
    for names, rule in (
        ("nano-28k@3", "at one of the depths 1, 4; got 3"),
        ("nano-51k", "one of the nano-28k@ family"),
    ):
        with pytest.raises(InputError, match=rule):
            members(family, names)


def test_a_folder_is_cut_by_counting(tmp_path: Path) -> None:
    """Blocks that differ: a dense one below two with experts."""
    configs()["qwen3_moe"].save_pretrained(tmp_path / "mine@2")
    source = str(tmp_path / "mine@2")
    family, model = chosen(None, source)  # the folder's own name, no depth
    assert (family.name, model, family.models[0].blocks) == ("custom", "mine@2", 3)
    cut, model = chosen(f"{source}@1,2", None)
    assert [each.name for each in cut.models] == ["mine@2@1", "mine@2@2"]
    assert [each.block_params for each in cut.models] == [family.models[0].block_params[:k] for k in (1, 2)]
    assert cut.models[0].idle_params == 0 < cut.models[1].idle_params
    assert all(each.source == source for each in cut.models)


def test_a_folder_that_is_a_known_model_takes_its_name_and_rates(tmp_path: Path) -> None:
    """Fails where a downloaded model gets the rule from the width instead of its family's measured rates."""
    from isoembed.encoder.config import load_config

    load_config("nano/nano-113k").save_pretrained(tmp_path / "mine")
    asked = ["recipe", "--budget", "1e11", "--batch-pairs", "32", "--method", "full", "--json", "--model"]
    mine, shipped = (
        json.loads(CliRunner().invoke(app, [*asked, model]).stdout) for model in (str(tmp_path / "mine"), "nano-113k")
    )
    assert mine["recipe"]["model"] == shipped["recipe"]["model"] | {"source": str(tmp_path / "mine")}
    for field in ("family", "learning_rate"):
        assert mine["recipe"][field] == shipped["recipe"][field]
    assert shipped["loss"] is not None
    assert mine["loss"] is None  # the law that ships is of the weights that ship


@pytest.mark.parametrize("command", [["recipe", "--budget", "1e10", "--batch-pairs", "16"], ["models"]])
def test_commands_take_a_depth(command: list[str]) -> None:
    by_name = CliRunner().invoke(app, [*command, "--model", "nano-28k@2", "--json"])
    by_option = CliRunner().invoke(app, [*command, "--model", "nano-28k", "--depth", "2", "--json"])
    assert by_name.exit_code == 0
    assert by_name.stdout == by_option.stdout
    assert '"nano-28k@2"' in by_name.stdout


@pytest.mark.parametrize(
    ("word", "said"), [("smollm2", "say --family smollm2."), ("pythia-70m", "say --model pythia-70m."), ("x", "(x). ")]
)
def test_a_name_that_stands_alone_is_refused_with_its_option(word: str, said: str) -> None:
    done = command("models", word, inside=Path())
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert said in done.err


def test_a_family_is_named_in_python_as_on_the_command_line(tmp_path: Path) -> None:
    """`recommend(family="FILE.gguf@")` was refused with advice that held for the command line alone."""
    folder = tmp_path / "base"
    configs()["llama"].save_pretrained(folder)
    assert isoembed.family_named("Nano") is isoembed.family_named(NANO) is isoembed.family_named("nano-51k") is NANO
    assert [each.name for each in isoembed.family_named(str(folder)).models] == ["base"]
    assert [each.name for each in isoembed.family_named(f"{folder}@").models] == ["base@1", "base@2", "base"]
    short = isoembed.PartialSetup(context_tokens=16)
    found = isoembed.recommend("1e12", isoembed.family_named(f"{folder}@2,1"), setup=short)
    assert found.recipe.model.name in ("base@1", "base@2")
    with pytest.raises(InputError, match=r"Give isoembed\.family_named\('base@'\), which takes a hub id"):
        isoembed.recommend("1e9", "base@")
    with pytest.raises(InputError, match=r"`model` alone must be one of.*Give isoembed\.family_named\('mine/one'\)"):
        isoembed.recommend("1e9", model="mine/one")
    with pytest.raises(InputError, match="Give family='pythia' too"):  # family_named would give all of its sizes
        isoembed.recommend("1e9", model="pythia-70m")
    with pytest.raises(InputError, match="Give family='pythia' too"):
        isoembed.recommend("1e9", model="Pythia-70M")
    assert isoembed.recommend("1e9", model="NANO-28K").recipe.model.name == "nano-28k"
    with pytest.raises(InputError, match="at most 255 bytes"):  # was an OSError
        isoembed.family_named("a" * 5000)
    assert [each.name for each in isoembed.family_named(folder).models] == ["base"]


def test_a_built_in_model_is_evaluated_by_its_name(tmp_path: Path) -> None:
    """As help says; it was looked for on the hub."""
    assert source_of("org/model") == "org/model"
    (tmp_path / "sts").mkdir()
    rows = [{"s1": f"sort a list {n}", "s2": f"order a list {n}", "score": n / 8} for n in range(8)]
    (tmp_path / "sts" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = command("eval", "nano-28k", "--data=sts", "--task=sts", "--json", inside=tmp_path)
    assert not done.status, done.err
