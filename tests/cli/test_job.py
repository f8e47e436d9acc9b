"""Job files: read, overridden, written and read again; and recipes that are trained once more."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from isoembed.cli.advice import advice
from isoembed.options import Options
from isoembed.recipe import EarlyStopping
from isoembed.records import HeldoutPoint
from isoembed.report.terminal.outcome import result_text
from tests.cli.test_options import ALL, asked, mistake
from tests.commands import command
from tests.fitting.ledgers import runs

JOB = """
out = "here"

[budget]
budget = 3e7
[model]
model = "nano-28k"
method = "lora"
lora-r = 4
[data]
data = "pairs.jsonl"
[training]
batch_size = 8
matryoshka = [16, 8]
"""
FLAGS = ["--budget=3e7", "--model=nano-28k", "--method=lora", "--rank=4", "--data=pairs.jsonl", "--batch-pairs=8",
         "--matryoshka=16,8"]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    rows = [{"query": f"what is {n}?", "positive": f"it is item {n}"} for n in range(60)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "job.toml").write_text(JOB)
    return folder


def planned(*arguments: str, inside: Path) -> dict[str, Any]:
    recipe: dict[str, Any] = asked("train", *arguments, "--dry-run", inside=inside)["recipe"]
    return recipe


def test_a_job_file_is_the_flags_and_a_flag_overrides_it(place: Path) -> None:
    ours = planned(*FLAGS, "--out=here", inside=place)
    assert planned("job.toml", inside=place) == ours
    assert planned("--seed=3", "job.toml", "--rank=2", inside=place)["method"]["rank"] == 2
    flat = {"budget": 3e7, "--model": "nano-28k", "method": "lora", "rank": 4, "batch-pairs": 8, "out": "here"}
    (place / "job.yaml").write_text(json.dumps({**flat, "data": {"data": "pairs.jsonl"}, "matryoshka": "16,8"}))
    assert planned("job.yaml", inside=place) == ours


def test_a_written_job_is_the_same_job(place: Path) -> None:
    """Text that TOML must escape, a switch off, a number of many digits, and a list come back as they were."""
    given = [*FLAGS, "--out=here", '--query-prompt=say "é"\t\\ ', "--no-pool-prompt", "--learning-rate=0.0123456789012",
             "--source-prompt=pairs:query=a = 'b': ", "--source-prompt=pairs:positive=",
             "--tracker=tensorboard", "--no-keep-adapter", "--max-row-bytes=5000"]  # fmt: skip
    first = planned(*given, "--save-job=saved.toml", inside=place)
    assert planned("saved.toml", "--save-job=again.toml", inside=place) == first
    assert first["options"]["prompts"] == {
        "query": 'say "é"\t\\ ',
        "positive": "",
        "pooled": False,
        "sources": [{"source": "pairs", "query": "a = 'b': ", "positive": ""}],
    }
    assert (place / "again.toml").read_text() == (place / "saved.toml").read_text()
    assert "dry-run" not in (place / "saved.toml").read_text()


def test_one_job_serves_several_commands(place: Path) -> None:
    """What another command takes is left out, in one line that says so."""
    done = command("recipe", "job.toml", "--budget=1e10", "--json", inside=place)
    assert done.status == 0
    assert done.err.splitlines() == ["isoembed: `isoembed recipe` takes no out, data; left out of job.toml."]
    assert json.loads(done.out)["recipe"]["method"]["rank"] == 4
    assert asked("recipe", "--budget=1e12", "--save-job=r.toml", inside=place) == asked(
        "recipe", "r.toml", inside=place
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lerning-rate = 1", "did you mean `learning-rate`?"),
        ("[traning]\nseed = 1", "did you mean `training`?"),
        ("zzz = 1", "no option of `isoembed train`"),
        ("batch-pairs = 8\nbatch_size = 9", "given once"),
        ("seed = true", "must be a text, a number or a list"),
        ("resume = 'yes'", "must be true or false"),
        ("[data]\nheldout = {a = 1}", "must be a text, a number or a list"),
        ("seed = 1979-05-27", "must be a text, a number or a list"),
        ("seed = 'x'", "--seed"),
        ("seed", "must be TOML"),
        ("\ud800", "must be TOML"),
        ("a = " + "[" * 50_000, "nest"),
        ("seed = " + "9" * 5000, "must be TOML"),
        ('out = "x\\u0000"', "null byte"),
    ],
)
def test_a_wrong_job_is_one_line(text: str, words: str, place: Path) -> None:
    (place / "job.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert words in mistake("train", "job.toml", *FLAGS, "--dry-run", inside=place)


def test_a_wrong_file_is_one_line(place: Path) -> None:
    (place / "job.yaml").write_text("- a\n- b\n")
    (place / "bad.yaml").write_text("a: [")
    (place / "tag.yaml").write_text("seed: !!python/object/apply:os.getcwd []")
    for file, words in (("job.yaml", "by their names"), ("bad.yaml", "must be YAML"), ("tag.yaml", "must be YAML"),
                        ("no.toml", "is not"), ("pairs.jsonl", "must end in")):  # fmt: skip
        assert words in mistake("train", file, "--out=here", inside=place)
    assert ".toml" in mistake("recipe", "--budget=1e12", "--save-job=x.yaml", inside=place)


def test_a_plan_of_a_sweep_is_a_job_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isoembed.workflows.sweep.measure_pace", lambda *_, **__: {})
    given = ["--out=sweep", "--budgets=1e9,4e9", "--models=nano-28k", "--methods=full", "--rate-steps=none",
             "--data=pairs.jsonl", "--batch-size=16", "--max-seq-length=32", "--min-steps=4"]  # fmt: skip
    first = asked("sweep", "plan", *given, "--dry-run", "--save-job=sweep.toml", inside=place)
    assert asked("sweep", "plan", "sweep.toml", "--dry-run", inside=place) == first


def test_a_finished_runs_recipe_is_trained_again(place: Path) -> None:
    """From recipe.json and from record.json, on its own pairs; on others it is another recipe; and nothing else is
    said of it."""
    first = asked("train", "job.toml", inside=place)["record"]
    for file, out in (("here/recipe.json", "one"), ("here/record.json", "two")):
        again = asked("train", f"--recipe={file}", f"--out={out}", inside=place)["record"]
        assert (again["key"], again["heldout"], again["steps"]) == (first["key"], first["heldout"], first["steps"])
    for option in ("--seed=1", "--batch-by=source", "--clusters=4", "--source-alpha=1", "--repeats=measured"):
        said = mistake("train", "--recipe=here/recipe.json", "--out=x", option, inside=place)
        assert f"leave {option.partition('=')[0]} out" in said  # those of the data were passed over in silence
    assert "--recipe" in mistake("train", "--recipe=pairs.jsonl", "--out=x", inside=place)
    rows = (place / "pairs.jsonl").read_text().splitlines(keepends=True)
    (place / "pairs.jsonl").write_text("".join(rows[:50]))
    assert "not those that the recipe was made for" in mistake(
        "train", "--recipe=here/recipe.json", "--out=x", "--dry-run", inside=place
    )
    other = planned("--recipe=here/recipe.json", "--out=x", "--data=pairs.jsonl", inside=place)
    assert other["key"] != first["key"]
    assert (other["train_tokens"], other["learning_rate"]) == tuple(
        first["recipe"][name] for name in ("train_tokens", "learning_rate")
    )
    advice = command("recipe", *FLAGS[1:4], "--budget=1e9", "--batch-pairs=8", "--json", inside=place)
    (place / "advice.json").write_text(advice.out)
    found = planned("--recipe=advice.json", "--out=x", "--data=pairs.jsonl", inside=place)
    assert found["train_tokens"] == json.loads(advice.out)["recipe"]["train_tokens"]


def test_a_run_is_extended_to_a_larger_budget_on_its_own_pairs(place: Path) -> None:
    """What was given to it need not be said again, and must not be; its folder says what was not spent again."""
    first = asked("train", "job.toml", "--schedule=wsd", inside=place)["record"]
    extend = ["train", "--extend=here", "--out=longer", "--json"]
    for option, words in {
        "--seed=1": "leave --seed out",
        "--schedule=wsd": "leave --schedule out",
        "--recipe=here/recipe.json": "leave --recipe out",
        "--epochs=9": "give `--budget` or `--epochs`",
        "--budget=3e7": "must have more tokens than the one that it extends",
        "--cache=elsewhere": "Name that run's `--cache`",
    }.items():
        given = [option] if option.startswith("--budget") else ["--budget=6e7", option]
        assert words in mistake(*extend, *given, inside=place)
    record = asked(*extend, "--budget=6e7", inside=place)["record"]
    taken = record["inherited"]
    assert (taken["key"], record["recipe"]["warmup_tokens"]) == (
        first["key"],
        round(first["recipe"]["train_tokens"] / 10),
    )
    assert record["model_flop"] > 1.5 * first["model_flop"] > taken["flop"] > 0.3 * first["model_flop"]
    assert planned("--extend=longer", "--epochs=50", "--out=x", inside=place)["train_tokens"] > record["tokens"]


def test_fewer_held_out_pairs_are_a_recipe_s_own_data(place: Path) -> None:
    """Others stay for training, so that a recipe made for one number is not for another."""
    some = ["--heldout-pairs=5", "--data=pairs.jsonl"]
    record = asked("train", "--budget=3e7", "--model=nano-28k", "--batch-pairs=8", "--out=here", *some, inside=place)[
        "record"
    ]
    assert (record["heldout"]["pairs"], record["unique_pairs"]) == (5, 55)
    again = ["train", "--recipe=here/recipe.json", "--out=x", "--dry-run", "--json"]
    said = mistake(*again, "--heldout-pairs=6", inside=place)
    assert "not those that the recipe was made for" in said
    assert "as that run did, by `--heldout-pairs` or `--heldout` (it evaluated 5)" in said
    # without it they were refused as if they were others, and, named as they are, trained on as others
    for named in ([], ["--heldout-pairs=5"], ["--data=pairs.jsonl"]):
        assert asked(*again, *named, inside=place)["recipe"]["key"] == record["key"]


def test_own_pairs_that_lie_elsewhere_are_asked_for_by_what_they_are(place: Path) -> None:
    """ "`--data` must name a file that exists", to one who had not named any."""
    asked("train", "job.toml", "--schedule=wsd", inside=place)
    (place / "pairs.jsonl").rename(place / "elsewhere.jsonl")
    for way in (["--recipe=here/recipe.json"], ["--extend=here", "--budget=6e7"]):
        said = mistake("train", *way, "--out=x", inside=place)
        assert "The recipe was made for the pairs of pairs.jsonl, which are not here" in said
        assert "Name them as `--data`" in said
        assert "are not here" in mistake("train", *way, "--out=x", "--heldout=none.jsonl", inside=place)
        named = mistake("train", *way, "--out=x", "--data=elsewhere.jsonl", "--heldout=none.jsonl", inside=place)
        assert "`--heldout` must name a file that exists; there is none at none.jsonl" in named


def test_a_run_is_extended_on_as_many_held_out_pairs_as_it_had(place: Path) -> None:
    """Fails where they must be named again, or where pairs that were changed are taken for its own."""
    rows = [{"query": f"what is {n}?", "positive": f"it is item {n}"} for n in range(400)]
    (place / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked("train", "job.toml", "--schedule=wsd", "--heldout-pairs=64", inside=place)
    longer = ["train", "--extend=here", "--budget=6e7"]
    named = asked(*longer, "--out=named", "--heldout-pairs=64", inside=place)["record"]
    unnamed = asked(*longer, "--out=unnamed", inside=place)["record"]
    assert named["heldout"]["pairs"] == 64
    for what in ("key", "heldout", "loss_curve", "inherited"):
        assert unnamed.get(what) == named.get(what), what
    assert (place / "unnamed/model.safetensors").read_bytes() == (place / "named/model.safetensors").read_bytes()
    (place / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:390]))
    said = mistake(*longer, "--out=x", inside=place)
    assert "are not those that the recipe was made for" in said
    assert "(it evaluated 64)" in said


def test_a_run_on_labels_that_held_nothing_out_is_trained_again(place: Path) -> None:
    """By default pairs that share their texts with many others are refused: none of them can be held out."""
    rows = [{"query": f"what is {n}?", "positive": f"label {n % 20}"} for n in range(400)]
    (place / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "These are labels" in mistake("train", "job.toml", inside=place)
    record = asked("train", "job.toml", "--heldout-pairs=0", inside=place)["record"]
    assert record["heldout"] is None
    assert planned("--recipe=here/recipe.json", "--out=x", inside=place)["key"] == record["key"]


def test_epochs_are_a_budget_of_a_job_and_of_a_given_recipe(place: Path) -> None:
    """A finished run's recipe goes so often through pairs it was not made for, too."""
    model = ["--model=nano-28k", "--batch-pairs=8", "--data=pairs.jsonl"]
    whole = asked("train", "--epochs=3", *model, "--out=here", inside=place)
    record, budget = whole["record"], whole["recommendation"]["budget"]
    assert whole["recommendation"]["recipe"]["epochs"] == pytest.approx(3, rel=1e-3)
    assert record["epochs"] == pytest.approx(3, abs=8 / record["unique_pairs"])
    assert (budget["epochs"], budget["flop"]) == (3, whole["recommendation"]["recipe"]["flop"])
    given = ["--recipe=here/recipe.json", "--out=x", "--data=pairs.jsonl"]
    assert planned(*given, "--epochs=1.5", inside=place)["epochs"] == pytest.approx(1.5, rel=1e-3)
    assert "Name `--model`" in mistake("train", "--epochs=3", "--data=pairs.jsonl", "--out=x", inside=place)
    assert "--epochs" in mistake("train", *model, "--epochs=0", "--out=x", inside=place)
    assert "--epochs" in mistake("train", "--epochs=3", "--pilot=5%", "--family=nano", "--out=x", inside=place)
    assert "`--repeats none`" in mistake("train", *model, "--epochs=3", "--repeats=none", "--out=x", inside=place)


def test_a_run_keeps_the_best_weights_and_says_so(place: Path) -> None:
    """In record and card; the export is of the kept ones; and 21 steps are said to be few, with what makes more."""
    model = ["--model=nano-28k", "--batch-pairs=8", "--data=pairs.jsonl", "--epochs=4", "--learning-rate=0.05"]
    rule = ["--keep=best", "--early-stopping-patience=3", "--eval-steps=4"]
    done = command("train", *model, *rule, "--explain", "--out=here", inside=place)
    assert done.status == 0, done.err
    record = json.loads((place / "here/record.json").read_text())
    losses = [point["loss"] for point in record["evaluations"]]
    assert record["heldout"]["loss"] == min(losses)
    assert record["recipe"]["early_stopping"] == {
        "keep": "best",
        "patience": 3,
        "metric_for_best_model": "loss",
        "eval_steps": 4,
    }
    assert "held-out evaluations" in done.out
    assert "weights kept" in done.out
    assert "best weights are kept, held-out loss taken every 4 steps" in (place / "here/README.md").read_text()
    there = re.search(r"which is little. With --epochs (\d+) it would", " ".join(done.out.split()))
    assert there is not None
    more = int(there[1])
    longer = planned(*model[:3], f"--epochs={more}", "--out=x", inside=place)
    assert longer["steps"] >= 100
    for wrong in (["--keep=worst"], ["--patience=0"], ["--eval-steps=3"]):
        said = mistake("train", *model, *wrong, "--out=x", inside=place)
        assert f"`{wrong[0].partition('=')[0]}`" in said


@pytest.mark.parametrize(
    ("steps", "epochs", "option"),
    [(100, 1.0, None), (36, 1.0, "--epochs 7"), (20, 0.01, "--budget"), (2, 1.0, "A smaller --batch-pairs"),
     (90, 40.0, None)],
)  # fmt: skip
def test_few_steps_are_said_with_the_option_that_makes_more(steps: int, epochs: float, option: str | None) -> None:
    """No more epochs than do good, and a budget where the pairs are not used up."""
    pairs = steps * 32
    made = runs()[0].model_copy(update={"steps": steps, "pairs": pairs, "unique_pairs": round(pairs / epochs)})
    said = list(advice(made))
    assert len(said) == (option is not None)
    assert all((option or "") in line for line in said)


def test_few_steps_of_a_run_that_can_be_extended_are_said_with_extend() -> None:
    made = runs()[0]
    long = made.recipe.model_copy(update={"options": Options(schedule="wsd")})
    (said,) = advice(made.model_copy(update={"recipe": long, "steps": 36, "pairs": 1152, "unique_pairs": 1152}))
    assert said == (
        "You trained for 36 steps, which is little. With --extend of this model and --epochs 7 it would be 252."
    )


@pytest.mark.parametrize(
    ("by_epochs", "how"), [(True, "--epochs 7"), (False, "--epochs 7 and the same --model, in place of --budget,")]
)
def test_a_user_is_not_told_to_do_what_was_done(by_epochs: bool, how: str) -> None:
    """`with --model and without --budget` was said to those who had it so."""
    made = runs()[0].model_copy(update={"steps": 36, "pairs": 1152, "unique_pairs": 1152})
    (said,) = advice(made, by_epochs=by_epochs)
    assert said == f"You trained for 36 steps, which is little. With {how} it would be 252."


def test_no_more_epochs_where_they_raised_the_held_out_loss() -> None:
    """It was told of harm by repeats, and told to repeat, in one breath."""
    made = runs()[0].model_copy(update={"steps": 36, "pairs": 1152, "unique_pairs": 384})
    end = made.heldout
    assert end is not None
    rose = made.model_copy(update={"heldout_before": end.model_copy(update={"loss": end.loss - 0.1})})
    least = HeldoutPoint(step=12, tokens=1, loss=end.loss - 0.1, seconds=0.0)
    assert len(list(advice(made))) == 1
    assert not list(advice(rose))
    assert not list(advice(made.model_copy(update={"evaluations": (least,)})))
    assert list(advice(rose.model_copy(update={"unique_pairs": 1152}))), "one epoch repeats nothing"


def test_a_dry_run_refuses_what_the_run_would(place: Path) -> None:
    """It planned a run that goes by held-out pairs on data that leave none."""
    said = mistake("train", "--model=nano-28k", "--batch-pairs=8", "--data=pairs.jsonl", "--epochs=3", "--keep=best",
                   "--heldout-pairs=0", "--dry-run", "--out=x", inside=place)  # fmt: skip
    assert "go by held-out pairs, and the data leave none" in " ".join(said.split())


def test_a_run_that_early_stopping_ended_is_not_told_to_run_longer() -> None:
    """It ended at step 9 of 200 and was told that 25 epochs would be 250 steps."""
    made = runs()[0]
    rule = EarlyStopping(keep="best", patience=2)
    recipe = made.recipe.model_copy(update={"early_stopping": rule})
    stopped = made.model_copy(
        update={
            "recipe": recipe, "steps": 36, "pairs": 1152, "unique_pairs": 1152, "kept_step": 12,
            "tokens": recipe.train_tokens // 4,
        }
    )  # fmt: skip
    assert stopped.ended_early
    assert not list(advice(stopped))
    out = Console(file=io.StringIO(), width=200)
    out.print(result_text(stopped, None, out=Path("x"), budget_flop=1e12))
    said = out.file.getvalue()  # type: ignore[attr-defined]
    assert "the weights of step 12 of 36" in said
    assert f"ended after 36 of {recipe.steps:,} steps, its patience of 2 evaluations spent" in said


def test_a_mixture_is_told_what_batches_of_one_source_are_worth(place: Path) -> None:
    """It was a sentence of which the first half fitted the line."""
    rows = [{"query": f"who is {n}?", "positive": f"person {n}"} for n in range(60)]
    (place / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    both = [*FLAGS[:4], "--data=pairs.jsonl,more.jsonl", "--batch-pairs=8", "--out=x", "--dry-run"]
    advised = "Note      2 sources mixed: `--batch-by source` gained .03 to .08 in trials"  # whole, in 80 columns
    assert advised in command("run", *both, inside=place).out
    for told in ([*both, "--batch-by=source"], [*FLAGS, "--out=x", "--dry-run"]):
        assert "--batch-by" not in command("run", *told, inside=place).out


def test_what_a_job_turns_on_the_command_line_turns_off(place: Path) -> None:
    """`any flag overrides it` held for values alone: no flag undid a switch, and none put dollars in place of FLOP."""
    (place / "on.toml").write_text('budget = "1e9"\nfamily = "nano"\nbidirectional = true\n')
    assert asked("recipe", "on.toml", inside=place)["recipe"]["options"]["bidirectional"]
    assert not asked("recipe", "on.toml", "--no-bidirectional", inside=place)["recipe"]["options"]["bidirectional"]
    spent = asked("recipe", "on.toml", "--hours=1e-8", "--gpu=h100", "--save-job=spent.toml", inside=place)
    assert spent["budget"]["device"] == "h100"
    assert "budget =" not in (place / "spent.toml").read_text()
    assert "Exactly one of" in mistake("recipe", "on.toml", "--budget=1e9", "--hours=1", "--gpu=h100", inside=place)


def test_every_switch_of_a_job_can_be_turned_off() -> None:
    for command_ in (ALL["run"], ALL["recipe"], ALL["sweep plan"]):
        switches = [each for each in command_.params if getattr(each, "is_flag", False)]
        kept = [each.name for each in switches if not each.secondary_opts]
        assert set(kept) <= {"as_json", "dry_run", "resume"}, command_.name


def test_a_comparison_of_families_is_saved_as_a_job(place: Path) -> None:
    """It was said to be, and nothing was written."""
    asked("recipe", "--family=any", "--budget=1e15", "--save-job=any.toml", inside=place)
    assert 'family = "any"' in (place / "any.toml").read_text()
