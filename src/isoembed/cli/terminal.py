"""How the command line writes: text to a terminal or a pipe, or JSON.

What a user gave (texts, names, keys, messages about them) may hold characters that command a terminal: everything goes
through here, and they are shown as `\\x1b`.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, TypeVar

import typer
from pydantic import TypeAdapter

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

T = TypeVar("T")

#: what commands a terminal or turns a line around: C0 but for tab and newline, DEL, C1, separators of lines, overrides
#: of direction; and halves of surrogate pairs, which no encoding takes
_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
#: characters of a complaint: more are no help
_LONGEST_COMPLAINT = 2000


def no_library_bars() -> None:
    """Silence transformers' own bars for reading and writing weights: a run has one bar, ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def set_logging(*, verbose: bool) -> None:
    """What the libraries log: all with `verbose`, else errors alone; their retries at a hub that nobody reaches are
    none.  Warnings of our own are always said."""
    level = logging.INFO if verbose else logging.ERROR
    ours = logging.INFO if verbose else logging.WARNING
    handler = logging.StreamHandler()  # some libraries set their own level, so it is asked here
    handler.addFilter(lambda record: record.levelno >= (ours if record.name.startswith("isoembed.") else level))
    logging.basicConfig(level=level, format="%(name)s: %(message)s", handlers=[handler])
    logging.getLogger("isoembed").setLevel(ours)
    for name in ("huggingface_hub", "transformers", "sentence_transformers", "datasets", "httpx"):
        logging.getLogger(name).setLevel(level)


def is_one() -> bool:
    """Whether both standard output and standard error are a terminal; a process may have been started with neither."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdout, sys.stderr))


def visible(text: str) -> str:
    """`text` with what commands a terminal written out, as `\\x1b`."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(text: str, *, err: bool = False) -> None:
    """One line or more on standard output, or on standard error."""
    typer.echo(visible(text), err=err)


def complain(text: object) -> None:
    """What went wrong, in one line on standard error."""
    line = re.sub(r"\s*[\r\n]\s*", " ", str(text)).strip()
    cut = "" if len(line) <= _LONGEST_COMPLAINT else " ..."
    say(f"isoembed: {line[:_LONGEST_COMPLAINT]}{cut}", err=True)


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    is_unicode = "utf" in (getattr(sys.stdout, "encoding", None) or "utf").lower()
    text = json.dumps(value, indent=1, ensure_ascii=not is_unicode)
    typer.echo(_COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def answer(found: T, text: Callable[[T], RenderableType], *, as_json: bool) -> None:
    """Print what a command found, a value or several: as JSON, or as `text` words it."""
    if as_json:
        print_json(TypeAdapter(Any).dump_python(found, mode="json", by_alias=True))
    else:
        console().print(text(found))


def guard() -> None:
    """Let this process write nothing else that commands a terminal either: warnings, log lines and tracebacks of
    whatever library; and let no character stop it that the output's encoding lacks, nor an output that is closed."""
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the whole process
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # what it retries: an error that stays is raised
    logging.setLogRecordFactory(_log_record)
    warnings.formatwarning = _warning


def _log_record(*args: Any, **options: Any) -> logging.LogRecord:
    record = logging.LogRecord(*args, **options)
    with suppress(TypeError, ValueError):  # arguments that do not fit: logging says so itself
        record.msg, record.args = visible(record.getMessage()), ()
    return record


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return f"{visible(filename)}:{lineno}: {category.__name__}: {visible(str(message))}\n"


def print_traceback(kind: type[BaseException], error: BaseException, place: TracebackType | None) -> None:
    """As Python does it, for what no rule of ours says in a line."""
    say("".join(traceback.format_exception(kind, error, place)).rstrip("\n"), err=True)


@cache
def _console_class() -> type[Console]:
    # rich is imported late, so that commands that say little start fast
    from rich.console import Console
    from rich.segment import Segment

    class VisibleConsole(Console):
        """A console whose only commands to the terminal are its own."""

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(visible(segment.text), segment.style)

    return VisibleConsole


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Where text goes: as wide as the terminal; into a pipe plain, and wrapped only where `COLUMNS` says at what width.

    Tables are never cut at the edge: a line too long is the terminal's to wrap.
    """
    stream = sys.stderr if stderr else sys.stdout
    if stream.isatty():
        return _console_class()(stderr=stderr, quiet=quiet, highlight=False, soft_wrap=True)
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if re.fullmatch("[0-9]{1,4}", columns) else 0
    return _console_class()(
        file=_Trimmed(stream),  # type: ignore[arg-type]
        quiet=quiet,
        highlight=False,
        soft_wrap=True,
        force_terminal=False,
        width=width or _UNWRAPPED,
    )


#: columns: more than any line has
_UNWRAPPED = 10_000


class _Trimmed:
    """A stream whose lines end where their text does: rich pads every cell of a table to its column's width."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        return self.stream.write(re.sub(r" +$", "", text, flags=re.MULTILINE))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
