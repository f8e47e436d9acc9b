"""What `import isoembed` gives, as a notebook uses it: texts for paths, numbers for budgets, names for values; and what
is none of these is one line that names the argument."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import isoembed
from isoembed import Budget, InputError, LoRA, LoRATop, recommend
from isoembed.core import Frozen
from isoembed.fitting.io.law_file import LawSet
from isoembed.recommendation.recommend import LAWS_FOLDER

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
        (lambda: LoRA(8), "takes its fields by name"),  # type: ignore[misc]
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
