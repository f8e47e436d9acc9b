"""`isoembed models`: what it prints is what the methods themselves say."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from isoembed.cli import app
from isoembed.families import FAMILIES, family_named
from isoembed.methods import TRAINED, Full
from isoembed.recommendation.catalogue import MethodFacts, facts
from tests.models import configs


def test_facts_are_the_methods_own_cost() -> None:
    (model, *_) = facts(family_named("pythia"))
    assert [method.method for method in model.methods] == [m.model_fields["name"].default for m in TRAINED]
    full = model.methods[0]
    spec = family_named("pythia").models[0]
    assert full.flop_per_token == 6 * spec.params == Full().cost(spec).flop_per_token
    assert full.updated_params == spec.total_params  # C charges nothing for the table, memory does
    assert full.memory_bytes is not None
    assert full.memory_bytes > 16 * spec.total_params


def test_a_method_that_cannot_train_a_model_says_why() -> None:
    (model, *_) = facts(family_named("llama3.2"))
    bias = next(method for method in model.methods if method.method == "bias")
    assert (bias.flop_per_token, bias.memory_bytes) == (None, None)
    assert bias.why_not is not None
    assert "has none" in bias.why_not
    (fact,) = bias.notes
    assert (fact.code, fact.fields["model"]) == ("unsuited", model.name)
    assert MethodFacts.model_validate_json(bias.model_dump_json()) == bias
    old = {"method": "bias", "label": "bias", "why_not": "It has none."}  # of before it was a fact
    assert MethodFacts.model_validate(old).why_not == "It has none."


def test_the_list_names_every_family() -> None:
    shown = CliRunner().invoke(app, ["models"])
    assert shown.exit_code == 0
    assert all(f"{family.name} " in shown.stdout for family in FAMILIES)
    as_json = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    assert [entry["family"] for entry in as_json] == [family.name for family in FAMILIES]


def test_a_family_and_one_model_of_it() -> None:
    shown = CliRunner().invoke(app, ["models", "--family", "gemma3"])
    assert shown.exit_code == 0
    assert "gemma-3-270m" in shown.stdout
    assert "100M" in shown.stdout
    one = json.loads(CliRunner().invoke(app, ["models", "--model", "gemma-3-1b", "--json"]).stdout)
    assert [model["name"] for model in one["models"]] == ["gemma-3-1b"]
    assert one["models"][0]["params"] == 697_896_064


def test_any_folder_is_counted_and_recommended_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    configs()["olmo2"].save_pretrained(tmp_path / "mine")
    shown = CliRunner().invoke(app, ["models", "--model", str(tmp_path / "mine"), "--json"])
    (model,) = json.loads(shown.stdout)["models"]
    # width 32, 3 blocks, 2 of 4 heads for keys, feed-forward 48; norms over queries and keys
    assert model["params"] == 3 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32 + 32 + 16) + 32
    asked = ["recipe", "--budget", "1e12", "--model", str(tmp_path / "mine"), "--batch-pairs", "32", "--context-tokens",
             "64", "--json"]  # fmt: skip
    recipe = json.loads(CliRunner().invoke(app, asked).stdout)
    assert recipe["recipe"]["family"] == "custom"
    assert any("rule from the width" in line for line in recipe["assumed"])


def test_experts_are_told_from_what_a_token_runs_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    configs()["qwen3_moe"].save_pretrained(tmp_path / "mine")
    asked = ["models", "--model", str(tmp_path / "mine")]
    (model,) = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)["models"]
    assert model["idle_params"] == 2 * 4 * 3 * 16 * 32  # 2 blocks, 4 of 6 experts not run
    assert model["total_params"] == model["params"] + model["embedding_params"] + model["idle_params"]
    by_name = {method["method"]: method for method in model["methods"]}
    assert by_name["full"]["flop_per_token"] == 6 * model["params"]
    assert by_name["full"]["updated_params"] == model["total_params"]
    assert "stacked in 3-D parameters" in by_name["lora"]["why_not"]
    shown = CliRunner().invoke(app, asked).stdout
    assert "other experts" in shown
    assert "stacked in 3-D parameters" in shown
    assert "other experts" not in CliRunner().invoke(app, ["models", "--family", "gpt2"]).stdout
