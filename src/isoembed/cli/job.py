"""Job files: the options of a command in TOML or YAML, read before those of the command line, and written."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from isoembed.cli import terminal
from isoembed.cli.boundary import names_of, within
from isoembed.core import InputError, write_atomically

#: the tables that a job file may have; options may also stand outside of any
TABLES = ("budget", "model", "setup", "data", "training", "law", "limits", "execution", "output")
#: options that are asked of one call, and are no part of a job
_OF_ONE_CALL = ("save_job", "as_json", "dry_run", "resume")


def _read(ctx: typer.Context, param: typer.CallbackParam, value: Path | None) -> Path | None:
    """Take the options in the file for the defaults of this call."""
    within(ctx, param, value)
    if value is not None and not ctx.resilient_parsing:
        ctx.default_map = dict(_values(value, ctx))
    return value


@dataclass(frozen=True, kw_only=True)
class JobFileOptions:
    """A job file to read, and one to write."""

    panel: ClassVar[str] = "Output"

    job: Annotated[
        Path | None,
        typer.Argument(
            metavar="JOB",
            help=".toml or .yaml file of options, named as here, in tables or not; the command line overrides it",
            callback=_read,
            is_eager=True,
            show_default=False,
        ),
    ] = None
    save_job: Annotated[Path | None, typer.Option(help="write the options given as a job file, in TOML")] = None

    def save(self, ctx: typer.Context) -> None:
        """Write the job where that was asked for."""
        if self.save_job is None:
            return
        if self.save_job.suffix != ".toml":
            raise InputError(f"`--save-job` must name a .toml file; got {self.save_job.name!r}. Name it so.")
        write_atomically(self.save_job, job_text(ctx))


def given(ctx: typer.Context) -> Iterator[Any]:
    """The options that the command line or a job file gives, in the order of the help."""
    for each in ctx.command.params:
        source = getattr(ctx.get_parameter_source(each.name or ""), "name", None)
        is_given = source == "COMMANDLINE" or (source == "DEFAULT_MAP" and ctx.params[each.name] is not None)
        if each.param_type_name == "option" and is_given:
            yield each


def job_text(ctx: typer.Context) -> str:
    """The options given, as TOML: a table for each panel of the help."""
    tables: dict[str, list[str]] = {}
    for each in given(ctx):
        if each.name not in _OF_ONE_CALL:
            key = max(each.opts, key=len).removeprefix("--")
            tables.setdefault((each.rich_help_panel or "Output").lower(), []).append(
                f"{key} = {_toml(ctx.params[each.name])}"
            )
    return "\n".join(f"[{name}]\n" + "\n".join(lines) + "\n" for name, lines in tables.items())


def _toml(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _values(file: Path, ctx: typer.Context) -> Iterator[tuple[str, Any]]:
    """Parameter -> what the file says, as it would be typed; raises InputError where it says what is no option."""
    known = names_of(ctx.command)
    passed_over: list[str] = []
    seen: dict[str, str] = {}
    for key, value in _entries(file):
        spelled = key.lstrip("-").replace("_", "-")
        if spelled not in known:
            if spelled not in _names_elsewhere(ctx):
                near = get_close_matches(spelled, known, n=1)
                hint = f"; did you mean `{near[0]}`?" if near else ". `--help` lists them."
                raise InputError(f"`{key}` in {file} is no option of `{ctx.command_path}`{hint}")
            passed_over.append(key)
            continue
        parameter, is_positive = known[spelled]
        if parameter.name in seen:
            raise InputError(
                f"An option must be given once; {file} has `{seen[parameter.name]}` and `{key}`. Keep one."
            )
        seen[parameter.name] = key
        if value is not None:
            yield parameter.name, _typed(parameter, value, is_positive, f"`{key}` in {file}")
    if passed_over:
        terminal.complain(f"`{ctx.command_path}` takes no {', '.join(passed_over)}; left out of {file}.")


def _names_elsewhere(ctx: typer.Context) -> set[str]:
    """Options of the other commands that take a job: one job serves several commands."""
    found: set[str] = set()
    commands = [ctx.find_root().command]
    while commands:
        each: Any = commands.pop()
        commands += getattr(each, "commands", {}).values()
        if any(parameter.name == "save_job" for parameter in each.params):
            found |= names_of(each).keys()
    return found


def _entries(file: Path) -> Iterator[tuple[str, Any]]:
    """Every option in the file, in a table or not."""
    for key, value in _content(file).items():
        if not isinstance(value, dict):
            yield str(key), value
            continue
        if str(key).lower() not in TABLES:
            near = get_close_matches(str(key).lower(), TABLES, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(TABLES)}."
            raise InputError(f"`{key}` in {file} is no table of a job file; {hint}")
        yield from ((str(name), inner) for name, inner in value.items())


def _content(file: Path) -> dict[Any, Any]:
    """What is in the file; numbers of TOML as they are written."""
    if file.suffix not in (".toml", ".yaml", ".yml"):
        raise InputError(f"A job file must end in .toml, .yaml or .yml; got {str(file)!r}.")
    if not file.is_file():
        raise InputError(f"A job file must be there; {file} is not. `--save-job` writes one.")
    try:
        text = file.read_bytes().decode()
        content = tomllib.loads(text, parse_float=str) if file.suffix == ".toml" else _yaml(text)
    except ValueError as error:  # what both readers and the decoding raise
        why = " ".join(str(error).split())
        raise InputError(f"{file} must be {file.suffix[1:].upper()}; {why}. Correct it.") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} must hold options by their names, as `budget: 1e12`; it holds something else.")
    return content


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _typed(parameter: Any, value: Any, is_positive: bool, where: str) -> Any:
    """`value` as if it had been typed; several values of an option of one are joined by commas."""
    if parameter.is_flag:
        if not isinstance(value, bool):
            raise InputError(f"{where} must be true or false; got {value!r:.200}.")
        return value is is_positive
    values = value if isinstance(value, list) else [value]
    for each in values:
        if isinstance(each, bool) or not isinstance(each, (str, int, float)):
            raise InputError(f"{where} must be a text, a number or a list of such; got {each!r:.200}.")
    texts = [str(each) for each in values]
    return texts if parameter.multiple else ",".join(texts)
