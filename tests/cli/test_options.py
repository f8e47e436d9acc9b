"""Options as a user finds them: help pages, names of others, near misses; and how groups of them become commands."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
import typer
from typer.testing import CliRunner

from isoembed.budget import DEVICES
from isoembed.cli import app, boundary
from isoembed.cli.groups import grouped
from isoembed.cli.options import ALIASES, ExecutionOptions, PromptOptions, SetupOptions
from isoembed.cli.parse import source_prompts
from isoembed.core import InputError
from isoembed.options import Options, Prompts, SourcePrompts
from isoembed.recipe import PartialSetup
from isoembed.training.execution import Execution
from tests.commands import command


def commands(each: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, below in getattr(each, "commands", {}).items():
        yield from commands(below, (*path, name))
    if not hasattr(each, "commands"):
        yield " ".join(path), each


ALL = dict(commands(typer.main.get_command(app)))


def asked(*arguments: str, inside: Path) -> Any:
    done = command(*arguments, "--json", inside=inside)
    assert done.status == 0, done.err
    return json.loads(done.out)


def mistake(*arguments: str, inside: Path) -> str:
    done = command(*arguments, inside=inside)
    assert (done.status, len(done.err.splitlines())) == (2, 1), done.err
    return done.err


@pytest.mark.parametrize("name", ALL)
def test_a_help_page_says_every_option_within_80_columns(name: str) -> None:
    done = CliRunner().invoke(app, [*name.split(), "-h"], env={"COLUMNS": "80"})
    assert done.exit_code == 0
    assert max(map(len, done.output.splitlines())) <= 80
    said = " ".join(done.output.split())
    for parameter in ALL[name].params:
        assert parameter.help, parameter.name
        assert parameter.hidden or (parameter.metavar or parameter.opts[0]) in said
    assert "readout" not in said
    assert " cell" not in said


@pytest.mark.parametrize("group", ["", "data", "sweep", "ledger"])
def test_a_list_of_commands_says_whole_sentences_in_a_pipe(group: str) -> None:
    """All 19 lines of the first page ended in three dots."""
    done = CliRunner().invoke(app, [*group.split(), "-h"], env={"COLUMNS": "80"})
    assert done.exit_code == 0
    assert max(map(len, done.output.splitlines())) <= 80
    listed = " ".join(done.output.partition("Commands:")[2].split())
    below: Any = typer.main.get_command(app)
    for name, each in (below.commands[group] if group else below).commands.items():
        first, *_ = re.split(r"(?<=\.) ", " ".join(each.help.split()))
        assert f"{name} {first}" in listed


def test_the_options_of_a_run_are_in_panels() -> None:
    """Into a pipe Click lists them all under one heading."""
    lines = CliRunner().invoke(app, ["run", "--help"]).output.splitlines()
    headings = [line.rstrip(":") for line in lines if line and not line.startswith((" ", "Usage"))]
    assert headings[-8:] == ["Budget", "Model", "Data", "Training", "Law", "Execution", "Output", "Options"]


def test_every_option_is_in_a_panel() -> None:
    """Options of ten commands stood under plain "Options", where `run` has them by what they are about."""
    outside = [
        (name, parameter.opts)
        for name, each in ALL.items()
        for parameter in each.params
        if parameter.param_type_name == "option" and not parameter.hidden and parameter.rich_help_panel is None
    ]
    assert not outside


@pytest.mark.parametrize(
    ("alias", "name"), [pair for pair in ALIASES.items() if pair[1] not in ("--prune", "--max-pair-epochs")]
)
def test_names_of_others_are_taken_and_not_shown(alias: str, name: str, tmp_path: Path) -> None:
    value = "0.01" if alias == "--lr" else "8"
    recipe = ["recipe", "--budget=1e13", "--method=lora", "--model=nano-28k", "--pairs=5000"]
    ours, theirs = (asked(*recipe, f"{each}={value}", inside=tmp_path)["recipe"] for each in (name, alias))
    assert ours == theirs
    assert ours != asked(*recipe, inside=tmp_path)["recipe"]
    assert alias not in command("recipe", "--help", inside=tmp_path).out


def test_a_near_miss_names_the_option(tmp_path: Path) -> None:
    assert "--learning-rate" in mistake("recipe", "--budget=1e13", "--lerning-rate=1", inside=tmp_path)
    assert "train" in mistake("trian", inside=tmp_path)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--budget=1e5", "--model=nano-28k"], "lower `--batch-pairs`"),
        (["--budget=1e13", "--learning-rate=20"], "`--learning-rate`: "),
        (["--budget=1e13", "--method=lora", "--rank=0"], "`--rank`: "),
        (["--budget=1e13", "--repeats=measured"], "`--repeats measured`"),
    ],
)
def test_errors_name_the_options_that_set_the_fields(given: list[str], words: str, tmp_path: Path) -> None:
    """Below the command line nobody knows them: there it is `batch_pairs`."""
    assert words in mistake("recipe", *given, inside=tmp_path)


def test_no_module_below_the_command_line_knows_an_option() -> None:
    below = Path(boundary.__file__).parents[1]
    flags = {option for each in ALL.values() for parameter in each.params for option in parameter.opts}
    for file in below.rglob("*.py"):
        if "cli" not in file.parts:
            found = set(re.findall(r"--[a-z][a-z-]+", file.read_text())) & flags
            assert not found, f"{file.name}: {found}"
            assert not re.search(r"--\{[a-z]", file.read_text()), f"{file.name} makes an option of a name"


def literals(*rooms: str) -> Iterator[str]:
    """Every text in the code of these rooms, but for docstrings."""
    below = Path(boundary.__file__).parents[1]
    for file in sorted(each for room in rooms for each in (below / room).rglob("*.py")):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        passed_over = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        passed_over |= {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in passed_over:
                yield node.value


def test_every_option_that_the_command_line_names_is_one() -> None:
    there = {option for each in ALL.values() for one in each.params for option in (*one.opts, *one.secondary_opts)}
    others = {*ALIASES, "--debug", "--version", "--help", "--nproc-per-node", "--no-deps"}
    for text in literals("cli"):
        assert set(re.findall(r"--[a-z][a-z-]+[a-z]", text)) <= there | others, text


def test_advice_names_options_of_the_command_that_gives_it() -> None:
    """`run` once advised `--repeats`, which only `recipe` had.  Where it is another command's, the text names that."""
    fields: dict[str, set[str]] = {}
    for name, command_of in ALL.items():
        for one in command_of.params:
            fields.setdefault(one.name, set()).add(name)
    of_recipe = {"pairs", "device_memory"}  # said only where no pairs are read, or where they were given
    for text in literals("recommendation"):
        named = {" ".join(words.split()) for words in re.findall(r"`isoembed ([a-z ]+)`", text)}
        for field in re.findall(r"`([a-z][a-z_]*)(?:=[\w-]+)?`", text):
            having = fields.get(field, set())
            if having and field not in of_recipe and not having & named:
                assert having >= {"recipe", "run", "train"}, f"{field} in {text!r}"


@pytest.mark.parametrize("device", [device.name for device in DEVICES][:3])
def test_a_price_list_is_a_gpu_in_any_case(device: str, tmp_path: Path) -> None:
    """`--device` once named it: that is still understood, with a hint in one line."""
    hours = ["recipe", "--hours=1", "--family=pythia", "--method=full", "--json"]
    new = command(*hours, f"--gpu={device.upper()}", inside=tmp_path)
    old = command(*hours, f"--device={device}", inside=tmp_path)
    assert (new.status, new.err) == (0, "")
    assert json.loads(new.out) == json.loads(old.out)
    assert old.err.splitlines() == [
        f"isoembed: `--device` is torch's device; taken as --gpu {device}, which says what is paid for."
    ]
    memory = ["recipe", "--budget=1e17", "--family=pythia"]
    assert asked(*memory, "--device-memory=H100", inside=tmp_path) == asked(
        *memory, "--device-memory=h100", inside=tmp_path
    )
    assert "torch's" in mistake("recipe", "--budget=1e13", "--device=cuda:1", inside=tmp_path)


def test_torchs_device_reaches_the_training(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(
        "".join(json.dumps({"query": f"what is {n}?", "positive": f"it is item {n}"}) + "\n" for n in range(60))
    )
    job = ["train", "--budget=3e7", "--model=nano-28k", "--method=full", "--data=pairs.jsonl", "--batch-size=8"]
    said = mistake(*job, "--out=there", "--device=cuda:99", inside=tmp_path)
    assert "cuda:99" in said
    assert asked(*job, "--out=here", "--device=cpu", inside=tmp_path)["record"]["recipe"]["batch_pairs"] == 8


def test_the_version_and_the_completion(tmp_path: Path) -> None:
    assert command("--version", inside=tmp_path).out.startswith("isoembed 0.")
    shown = CliRunner().invoke(app, ["--help"]).output
    for option in ("--install-completion", "--show-completion", "--version", "--debug", "-h"):
        assert option in shown
    found = CliRunner().invoke(
        app, [], prog_name="isoembed",
        env={"_ISOEMBED_COMPLETE": "complete_bash", "COMP_WORDS": "isoembed run --gra", "COMP_CWORD": "2"},
    )  # fmt: skip
    assert found.output.split() == ["--gradient-checkpointing"]


def test_no_function_of_the_command_line_takes_more_than_ten_parameters() -> None:
    folder = Path(boundary.__file__).parent
    for file in folder.glob("*.py"):
        module = __import__(f"isoembed.cli.{file.stem}", fromlist=["x"])
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__:
                assert len(inspect.signature(function).parameters) <= 10, name


@dataclass(frozen=True, kw_only=True)
class Inner:
    panel: ClassVar[str] = "Inner"
    depth: Annotated[int, typer.Option(help="how deep")] = 3


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: Annotated[str, typer.Option(help="a name")]
    inner: Inner


def test_a_group_is_one_value_of_the_command_and_an_option_per_field() -> None:
    found: list[Any] = []

    def shown(outer: Outer, word: Annotated[str, typer.Argument()]) -> None:
        found.append((outer, word))

    small = typer.Typer()
    small.command()(grouped(shown))
    assert CliRunner().invoke(small, ["word", "--name", "x", "--depth", "5"]).exit_code == 0
    assert found == [(Outer(name="x", inner=Inner(depth=5)), "word")]
    assert CliRunner().invoke(small, ["word"]).exit_code == 2  # a required field
    parameters = {each.name: each for each in typer.main.get_command(small).params}
    assert vars(parameters["depth"])["rich_help_panel"] == "Inner"


def test_an_option_of_two_groups_is_an_error_at_the_start() -> None:
    def twice(outer: Outer, inner: Inner) -> None: ...

    with pytest.raises(TypeError, match="`depth` twice"):
        grouped(twice)


def test_every_option_of_execution_and_setup_arrives() -> None:
    """They were handed on by name, one by one, so that a new one could be left out: one field and one line will do."""
    apart = {"device", "memory"}  # read before
    plain = {each.name: each.default for each in fields(Execution)}
    given: dict[str, Any] = {"precision": "bf16", "checkpoint_seconds": 7.0}
    for each in fields(ExecutionOptions):
        if each.name not in apart:
            assert each.default == plain[each.name], each.name
            given.setdefault(each.name, not plain[each.name])
    assert vars(ExecutionOptions(**given).value("cpu", 1e9)) == {
        **plain, **given, "device": "cpu", "memory_bytes": 1e9
    }  # fmt: skip
    known = {*PartialSetup.model_fields, *Options.model_fields, "pool_prompt"}
    assert {each.name for each in fields(SetupOptions)} <= known
    asked = SetupOptions(temperature=0.1, batch_pairs=32, matryoshka="64,32", bidirectional=True)
    assert asked.value() == PartialSetup(
        temperature=0.1, batch_pairs=32, options=Options(matryoshka=(64, 32), bidirectional=True)
    )


def test_options_in_words() -> None:
    assert str(Options()) == "none"
    assert str(Options(bidirectional=True, matryoshka=(8, 4), mask_margin=0.1, prompts=Prompts(query="q: "))) == (
        "prompts 'q: ' and '', candidates over 0.1 above the positive masked, attention both ways, matryoshka 8, 4"
    )


def test_prompts_of_a_source_are_parsed_or_refused() -> None:
    """Fails where a name with a colon, or a text with one, is cut at the wrong place."""
    given = ["hub:a/b:query=what: x=1", "faq:positive=", "faq:query=q "]
    assert source_prompts(given) == {"hub:a/b": {"query": "what: x=1"}, "faq": {"positive": "", "query": "q "}}
    for wrong in ("faq=text", "faq:document=text", ":query=text", "faq:query"):
        with pytest.raises(InputError, match="must be NAME:query=TEXT"):
            source_prompts([wrong])
    with pytest.raises(InputError, match="faq:query twice"):
        source_prompts(["faq:query=a", "faq:query=b"])
    asked = SetupOptions(prompts=PromptOptions(positive_prompt="p ", source_prompt=["faq:query=q "]), pool_prompt=False)
    own = (SourcePrompts(source="faq", query="q ", positive="p "),)
    assert asked.options().prompts == Prompts(positive="p ", pooled=False, sources=own)
    assert str(asked.options()) == "prompts '' and 'p ', of faq 'q ' and 'p ', not pooled"
    assert str(Options(batch_by="cluster", clusters=64)) == "one cluster a batch, of 64 clusters"
