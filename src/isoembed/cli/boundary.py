"""Where a user's values come in, and what goes wrong with them goes out as one line."""

from __future__ import annotations

import errno
import math
import os
import re
import sys
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError
from typer.core import TyperCommand, TyperGroup, TyperOption

from isoembed.cli.options import ALIASES, WAYS
from isoembed.core import LARGEST, InputError, from_os_error, from_validation, not_installed, system_error
from isoembed.families import FAMILIES

#: what the system says of a place that is misnamed, whoever asks: others it may say of a machine in trouble too
_MISNAMED = (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)


class Commands(TyperGroup):
    """Commands, each with the first sentence of what it does, whole in a pipe too."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        shown = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first_sentence(each.help or "")) for name, each in shown if each is not None])


class Bounded(Commands):
    """The commands, each option and argument of theirs held to `within`; complaints of Typer's are raised, not
    printed."""

    def main(self, *args: Any, **options: Any) -> Any:
        _hold(self)
        status = super().main(*args, **{"prog_name": "isoembed", **options, "standalone_mode": False})
        if status:
            sys.exit(status)


class Command(TyperCommand):
    """A command that also takes its options by the names that others give them, and shows its panels in a pipe too."""

    def make_parser(self, ctx: Any) -> Any:
        parser = super().make_parser(ctx)
        for alias, name in ALIASES.items():
            for each in self.params:
                if isinstance(each, TyperOption) and name in each.opts:
                    parser.add_option(obj=each, opts=[alias], dest=each.name, action="store", nargs=each.nargs)
        return parser

    def invoke(self, ctx: Any) -> Any:
        """Errors of what is below name fields; here they name this command's options."""
        _displace(ctx)
        try:
            return super().invoke(ctx)
        except ValidationError as error:
            raise InputError(with_flags(str(from_validation(error)), ctx)) from error
        except InputError as error:
            error.args = (with_flags(str(error), ctx),)
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for each in sorted(self.get_params(ctx), key=lambda each: each.param_type_name):  # arguments first
            if (record := each.get_help_record(ctx)) is not None:
                usual = "Arguments" if each.param_type_name == "argument" else "Options"
                panels.setdefault(getattr(each, "rich_help_panel", None) or usual, []).append(record)
        for panel, records in panels.items():
            with formatter.section(panel):
                formatter.write_dl(records)


def _displace(ctx: Any) -> None:
    """Take out what a job file says of the budget where the command line says it in another way."""
    said = {name: getattr(ctx.get_parameter_source(name), "name", None) for name in WAYS if name in ctx.params}
    if "COMMANDLINE" in said.values():
        ctx.params |= {name: None for name, source in said.items() if source == "DEFAULT_MAP"}


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s", " ".join(text.split()), maxsplit=1)[0]


def names_of(command: Any) -> dict[str, tuple[Any, bool]]:
    """What the options of a command may be called, without dashes in front, also by others; and whether the name turns
    a switch on."""
    found: dict[str, tuple[Any, bool]] = {}
    for each in command.params:
        if each.param_type_name == "option":
            others = [alias for alias, name in ALIASES.items() if name in each.opts]
            found |= {name.lstrip("-"): (each, True) for name in (*each.opts, *others)}
            found |= {name.lstrip("-"): (each, False) for name in each.secondary_opts}
    return found


def with_flags(text: str, ctx: Any) -> str:
    """`text` with fields in backticks (`batch_pairs`, `repeats=measured`, `rank` of LoRA) as the options that set them:
    those of the commands that it names, as `isoembed fit`, and of the one that runs."""
    flags: dict[str, str] = {}
    root = ctx.find_root().command
    named = [_command(root, words.split()) for words in re.findall(r"`isoembed ([a-z ]+)`", text)]
    for command in (*named, ctx.command):
        for name, (parameter, is_positive) in names_of(command).items():
            if is_positive:
                flags[name.replace("-", "_")] = max(parameter.opts, key=len)

    def flag(found: re.Match[str]) -> str:
        name, value = found[1], found[2]
        said = "" if value in (None, "True") else f" {value}"  # a flag stands alone
        return f"`{flags[name]}{said}`" if name in flags else found[0]

    return re.sub(r"`([a-z][a-z_]*)(?:=([\w.,-]+))?`(?: of [A-Z][A-Za-z]*(?=:))?", flag, text)


def _command(command: Any, words: list[str]) -> Any:
    """The command that `words` name below `command`, as far as they name one."""
    for word in words:
        command = getattr(command, "commands", {}).get(word, command)
    return command


def _hold(command: Any) -> None:
    for parameter in command.params:
        if parameter.callback is None:
            parameter.callback = within
    for below in getattr(command, "commands", {}).values():
        _hold(below)


def within(_: Any, parameter: Any, value: Any) -> Any:
    """`value`, where each number is finite and counts exactly and each text can be written to a file; else
    InputError."""
    name = f"`{max(parameter.opts, key=len)}`"
    for each in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(each, float) and not math.isfinite(each):
            raise InputError(f"{name} must be a finite number; got {each}. Give another value.")
        if isinstance(each, int) and abs(each) > LARGEST:
            raise InputError(f"{name} must lie within 2^53, the whole numbers that a float holds; got {each:.3g}.")
        if isinstance(each, (str, Path)) and not _is_text(str(each)):
            raise InputError(f"{name} must be UTF-8 without null bytes, also where it names a file; got {str(each)!r}.")
        if isinstance(each, Path) and each.exists() and not (each.is_file() or each.is_dir()):
            raise InputError(f"{name} must be a file or a folder; {each} is a pipe or a device. Name another place.")
        if isinstance(each, Path) and (link := _dead_link(each)):
            raise InputError(f"{name} must lead somewhere; {link} is a link that does not. Remove it, or correct it.")
    return value


def _dead_link(path: Path) -> Path | None:
    """The link on the way to `path` that leads to nothing, or around in a circle."""
    return next((each for each in (path, *path.parents) if os.path.islink(each) and not os.path.exists(each)), None)


def _is_text(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8 arrive as halves of surrogate pairs
        return False


def line_of(error: Exception) -> str | None:
    """What `error` says to a user: nothing where it has shown itself, None where no rule says it, which is a
    defect."""
    if isinstance(error, InputError):
        return str(error)
    if system := system_error(error):
        return from_os_error(system)
    if isinstance(error, ValidationError):
        return str(from_validation(error))
    if isinstance(error, ModuleNotFoundError) and (missing := not_installed(error.name or "")):
        return str(missing)
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        return (
            "File names and texts must be UTF-8; one found on the way is not "
            f"({os.fsencode(error.object[error.start : error.end])!r}). Rename or remove it."
        )
    if isinstance(error, RecursionError):
        return "A file must not nest its parts hundreds deep; one that was read does. Flatten it."
    if isinstance(error, MemoryError):
        return "This machine has too little memory for it. Lower --memory, the batch or the model."
    if type(error).__name__ == "NoArgsIsHelpError":  # Typer's: it holds the help
        error.show()  # type: ignore[attr-defined]
        return ""
    if isinstance(error, typer.Abort):
        return "Stopped."
    if hasattr(error, "format_message"):  # Typer's and Click's complaints have only this in common
        context = getattr(error, "ctx", None)
        help_at = f" See `{context.command_path} --help`." if context else ""
        said = error.format_message()
        return f"{said}{_named_for(said, context)}{help_at}"
    return None


def _named_for(said: str, context: Any) -> str:
    """Of a family or a model that stands where the command takes no argument, the option that it belongs to."""
    stray = re.search(r"unexpected extra arguments?(?:\(s\))? \((\S+)", said)
    if stray is None or context is None:
        return ""
    word, options = stray[1].rstrip(")"), names_of(context.command)
    if "family" in options and any(family.is_called(word) for family in FAMILIES):
        return f": say --family {word}."
    if "model" in options and any(word == model.name for family in FAMILIES for model in family.models):
        return f": say --model {word}."
    return "."


def status_of(error: Exception) -> int:
    """The exit status that goes with `line_of`: 2 for what was given, 1 for what the machine refused."""
    if isinstance(error, (MemoryError, typer.Abort)):
        return 1
    if system := system_error(error):
        return 2 if system.errno in _MISNAMED else 1
    return int(getattr(error, "exit_code", 2))
