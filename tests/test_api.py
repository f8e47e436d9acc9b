"""What `import isoembed` gives, as a notebook uses it: texts for paths, numbers for budgets, names for values; and what
is none of these is one line that names the argument."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest
from pydantic import ValidationError

import isoembed
from isoembed import Budget, InputError, LoRA, LoRATop, recommend
from isoembed.core import Frozen, StoppedError
from isoembed.fitting.io.law_file import LawSet
from isoembed.recommendation.notes import note
from isoembed.recommendation.recommend import LAWS_FOLDER
from isoembed.recommendation.request import Request
from tests.training.small import StopAfter

NANO_LAW = LAWS_FOLDER / "nano.json"


class Nothing:
    """What no argument may be."""


def calls() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function, and every method of a public class that makes, reads or writes one."""
    for name in isoembed.__all__:
        value = getattr(isoembed, name)
        if inspect.isfunction(value):
            yield name, value
        for method in ("parse", "from_devices", "from_dollars", "assumed", "load", "open", "save", "model"):
            found = vars(value).get(method) if inspect.isclass(value) else None
            if found is not None and not isinstance(found, property):
                yield f"{name}.{method}", getattr(found, "__func__", found)
        if name in ("DataOptions", "Execution"):
            yield name, value.__init__


CALLS = dict(calls())


@pytest.mark.parametrize("name", CALLS)
def test_an_argument_of_a_wrong_type_is_named(name: str) -> None:
    """A public function without `checked` raised AttributeError or TypeError from deep inside, or took the value."""
    function = CALLS[name]
    given = {each: Nothing() for each in inspect.signature(function).parameters if each not in ("self", "cls")}
    receiver = {each: None for each in ("self", "cls") if each in inspect.signature(function).parameters}
    with pytest.raises(InputError) as raised:
        function(**receiver, **given)
    called = function.__qualname__.removesuffix(".__init__")
    assert str(raised.value).startswith(f"`{next(iter(given))}` of {called} must be ")
    found = raised.value.__context__
    assert isinstance(found, ValidationError)
    assert {error["loc"][0] for error in found.errors()} == set(given)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: LoRA(rank=0), "`rank` of LoRA: Input should be greater than or equal to 1; got 0"),
        (lambda: cast("Any", LoRA)(8), "takes its fields by name"),
        (lambda: isoembed.Options(mask_margin=-1), "`mask_margin` of Options"),
        (lambda: isoembed.Constraints(methods=("lorra",)), "a method must be one of"),
        (lambda: setattr(LoRA(), "rank", 3), "A LoRA does not change"),
        (lambda: Budget.parse(None), "`flop` of Budget.parse must be Budget"),  # type: ignore[arg-type]
        (lambda: isoembed.family_named(None), "`name` of family_named must be Family"),  # type: ignore[arg-type]
        (lambda: recommend(1e12, method="lorra"), "`method` must be one of full"),
        (lambda: recommend(1e12, method="bias 3"), "a name and its numbers"),
        (lambda: recommend(1e12, law="none.json"), "none.json cannot be read"),
        (lambda: isoembed.RunRecord.load("none.json"), "none.json cannot be read"),
        (lambda: isoembed.RunRecord.load("."), "cannot be read"),
        (lambda: isoembed.load_exported(__file__), "must hold modules.json"),
        (lambda: isoembed.load_exported("none"), "must hold modules.json"),
    ],
)
def test_misuse_is_one_line(call: Callable[[], Any], says: str) -> None:
    """Each was pydantic's list of complaints, or a raw TypeError, AttributeError or FileNotFoundError."""
    with pytest.raises(InputError, match=says.replace("(", r"\(")) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_a_keyword_that_is_none_is_named() -> None:
    with pytest.raises(TypeError, match="recommend: got an unexpected keyword argument 'famly'"):
        recommend(1e12, famly="nano")  # type: ignore[call-arg]


@pytest.mark.parametrize("budget", [1.5e12, "1.5e12", 1_500_000_000_000, Budget.parse("1.5e12")], ids=str)
def test_a_budget_is_a_number_a_text_or_a_budget(budget: Budget | str | float) -> None:
    assert recommend(budget, family="nano") == recommend(Budget.parse("1.5e12"), isoembed.NANO)


def test_a_method_goes_by_its_label_and_a_law_by_its_file() -> None:
    by_name = recommend(1e12, "nano", method="lora r=8", law=str(NANO_LAW))
    assert by_name == recommend(1e12, "nano", method=LoRA(rank=8, alpha=16.0), law=LawSet.load(NANO_LAW))
    found = recommend(1e12, "nano", method="lora-top 0.5 r=8", law=None).recipe.method
    assert found == LoRATop(fraction=0.5, rank=8, alpha=16.0)


def test_what_is_written_by_a_text_is_read_by_one(tmp_path: Path) -> None:
    law = LawSet.load(str(NANO_LAW))
    law.save(str(tmp_path / "law.json"))
    assert LawSet.load(tmp_path / "law.json") == law


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell expands `~`, a notebook does not: a folder of that name would appear in the working folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    LawSet.load(NANO_LAW).save("~/law.json")
    assert (tmp_path / "law.json").is_file()


def test_values_are_read_from_json_without_a_call_each() -> None:
    """An `__init__` that pydantic takes for its own checker would be called for every value of a ledger."""
    assert not any(each.__pydantic_custom_init__ for each in (Frozen, LoRA, isoembed.RunRecord))


def test_import_is_light_and_completes() -> None:
    code = (
        "import sys, isoembed\n"
        "heavy = {'torch', 'transformers', 'scipy', 'plotly', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert {'fit', 'train', 'figure', '__version__'} <= set(dir(isoembed))\n"
        "assert isoembed.__version__[0].isdigit() and callable(isoembed.recommend)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_law_is_the_same_of_a_ledger_its_records_and_a_frame() -> None:
    """Columns of a frame are read as those of a file."""
    ledger = Path(__file__).parents[1] / "benchmarks" / "results" / "nano_study.jsonl.gz"
    runs = [run for run in isoembed.Ledger.open(ledger).records() if run.recipe.method.name == "full"]
    plain: Any = {"law": "power", "draws": 0, "holdout": "none"}
    table = {"C": [run.model_flop for run in runs], "loss": [run.heldout.loss for run in runs if run.heldout]}
    by_record, by_frame = isoembed.fit(runs, **plain), isoembed.fit(pa.table(table), **plain)
    assert by_record.laws[0].source == f"{len(runs)} records"
    assert by_frame.laws[0].source == "data frame.parquet"
    assert by_frame.laws[0].n_points == len(runs)


def test_a_notebook_sees_a_line_and_an_escaped_table() -> None:
    found = recommend(1e12, "nano")
    assert found.recipe.model.name in repr(found)
    assert len(repr(found)) < 1500  # all fields are tens of thousands of characters
    written = note("basis", "text", text="<script>alert(1)</script>")
    named = found.model_copy(update={"notes": (written,)})
    assert "&lt;script&gt;" in named._repr_html_()
    assert "<script" not in named._repr_html_()


def test_train_takes_pairs_at_hand_and_a_recipe_given_back(tmp_path: Path) -> None:
    """Tuples and dicts are the same pairs: same data, same key, same loss."""
    pairs = [(f"what is item {n}?", f"item {n} costs {n * 7} coins") for n in range(100)]
    found = recommend(3e8, "nano", model="nano-28k", method="full", setup=isoembed.PartialSetup(batch_pairs=8))
    first = isoembed.train(found, pairs, str(tmp_path / "a"))
    rows = [{"query": query, "positive": positive} for query, positive in pairs]
    again = isoembed.train(str(tmp_path / "a" / "recipe.json"), rows, str(tmp_path / "b"))
    assert (again.key, again.heldout) == (first.key, first.heldout)
    with pytest.raises(InputError, match="pair 1 is 'a'"):
        isoembed.train(found, ["a"], tmp_path / "c")
    with pytest.raises(InputError, match="made for other data"):
        isoembed.train(tmp_path / "a" / "recipe.json", pairs[:80], tmp_path / "d")
    with pytest.raises(InputError, match="is a file"):  # before the pairs, which are not there
        isoembed.train(found, tmp_path / "none.jsonl", tmp_path / "a" / "record.json" / "x")
    with pytest.raises(InputError, match="A path must name a file or a folder; it is empty"):
        isoembed.train(found, pairs, "")


def test_a_stopped_run_asked_for_otherwise_says_how_and_loses_nothing(tmp_path: Path) -> None:
    """It said "another recipe", and wrote that one over recipe.json, by which the run could be gone on with."""
    pairs = [(f"what is item {n}?", f"item {n} costs {n * 7} coins") for n in range(100)]
    setup = isoembed.PartialSetup(batch_pairs=8)
    out = tmp_path / "a"
    by_rank = {
        rank: recommend(3e8, "nano", model="nano-28k", method=LoRA(rank=rank, alpha=8.0), setup=setup)
        for rank in (4, 8)
    }
    with pytest.raises(StoppedError):
        isoembed.train(by_rank[4], pairs, out, callbacks=[StopAfter(2)])
    begun = (out / "recipe.json").read_bytes()
    going_on = isoembed.Execution(resume=True)
    with pytest.raises(InputError, match=r"begun with another: method lora r=4 there, lora r=8 here; tokens .*Ask for"):
        isoembed.train(by_rank[8], pairs, out, execution=going_on)
    best = isoembed.EarlyStopping(keep="best")
    with pytest.raises(InputError, match=r"begun with another: early stopping none there, the best weights are kept"):
        isoembed.train(by_rank[4], pairs, out, execution=going_on, early_stopping=best)
    assert (out / "recipe.json").read_bytes() == begun
    record = isoembed.train(out / "recipe.json", pairs, out, execution=going_on)
    assert record.recipe.method.label == "lora r=4"


WRONG: list[tuple[Callable[[], object], str]] = [
    (lambda: Budget(stated="x"), "must have `flop`, `epochs`, or `device`"),
    (lambda: Budget(stated="x", flop=-1), "`flop` of Budget"),
    (lambda: Budget.from_devices("foo", hours=1), "`device` must be one of"),
    (lambda: isoembed.Constraints(device_memory="24GB"), "`device_memory` must be one of .* give its bytes"),
    (lambda: isoembed.Constraints(device_memory=-1), "`device_memory` must be above 0"),
    (lambda: isoembed.Execution(memory_bytes=-1), "`memory_bytes` must be above 0"),
    (lambda: isoembed.Embedder.load("nano/nano-28k", device="x"), "`device` must be one that torch can use"),
    (lambda: isoembed.Embedder.load("nano/nano-28k").embed(["a", "\ud800"]), "text 2 has half of a surrogate pair"),
    (lambda: isoembed.Embedder.load("nano/nano-28k").embed(["a"], batch_tokens=0), "`batch_tokens` must be"),
]


@pytest.mark.parametrize(("make", "words"), WRONG, ids=[words for _, words in WRONG])
def test_what_a_value_cannot_be_is_said_by_its_own_name(make: Callable[[], object], words: str) -> None:
    """Some were tracebacks, some were taken and named another field later."""
    with pytest.raises(InputError, match=words):
        make()


def test_a_setup_may_be_a_dict() -> None:
    setup: Any = {"batch_pairs": 16}
    assert Request.of("1e9", "nano", setup).batch_pairs == 16
    assert recommend("1e9", "nano", setup=setup).recipe.batch_pairs == 16
