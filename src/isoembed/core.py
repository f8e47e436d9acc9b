"""What every other module may lean on: frozen pydantic values and the one error a user's mistake raises."""

from __future__ import annotations

import errno
import functools
import hashlib
import inspect
import json
import os
import re
import tempfile
import uuid
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from html import escape
from importlib import metadata
from pathlib import Path
from threading import RLock
from typing import IO, Annotated, Any, ParamSpec, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, validate_call

P = ParamSpec("P")
R = TypeVar("R")


class InputError(ValueError):
    """A user's mistake, worded as rule, value, remedy.  The command line prints it without a traceback.

    Of a rule that planners ask about too its only argument is no text but the fact (`isoembed.notes.Refusal`).
    """

    #: exit status of the command line: 2 wrong use, 1 a job that failed, 130 one that was stopped
    exit_code = 2


#: the largest whole number up to which a float holds every one
LARGEST = 2**53
#: a number of things
Count = Annotated[int, Field(ge=0, le=LARGEST)]
#: a number of things of which there is at least one
PositiveInt = Annotated[int, Field(ge=1, le=LARGEST)]


class StoppedError(InputError):
    """A run was asked to stop (ctrl-C, SIGTERM, SIGHUP) and saved a checkpoint first."""

    exit_code = 130


class Frozen(BaseModel):
    """A value: immutable, rejects unknown fields, compares and hashes by content.

    Where a field has an alias, that is its key in JSON, an older name.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_by_name=True, serialize_by_alias=True
    )

    def __init__(self, /, *unnamed: Any, **values: Any) -> None:
        """Raises InputError where a field is missing, unknown, not named, or of a value that it cannot have."""
        if unnamed:
            whose, fields = type(self).__name__, ", ".join(type(self).model_fields)
            raise InputError(f"A {whose} takes its fields by name ({fields}); got {unnamed[0]!r:.200}. Name it.")
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise from_validation(error, type(self).__name__) from None

    # pydantic's own mark (RootModel bears it too): fields that are values themselves are read without this `__init__`
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def __setattr__(self, name: str, value: Any) -> None:
        whose = type(self).__name__
        raise InputError(f"A {whose} does not change; got {name} = {str(value)[:200]}. Make another {whose} with it.")


class Summarised(Frozen):
    """A value that shows what matters of it, in a line and as a notebook's table, in place of all its fields."""

    @abstractmethod
    def summary(self) -> dict[str, str]:
        """What is shown, by name."""

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield from self.summary().items()

    def _repr_html_(self) -> str:
        """For notebooks; names and texts of users are escaped."""
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th><td style='text-align:left'>{escape(value)}</td></tr>"
            for name, value in self.summary().items()
        )
        return f"<table><caption>{escape(type(self).__name__)}</caption>{rows}</table>"


def first_line(error: BaseException) -> str:
    """What an error says, without what follows in further lines."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def from_validation(error: ValidationError, owner: str = "") -> InputError:
    """The first complaint of pydantic's about a value a user gave, as an InputError; `owner` says whose field it is."""
    first = error.errors()[0]
    if isinstance(worded := first.get("ctx", {}).get("error"), InputError):
        return worded
    field = ".".join(map(str, first["loc"])) or error.title
    whose = f" of {owner}" if owner else ""
    got = str(first["input"])[:200]
    return InputError(f"`{field}`{whose}: {first['msg']}; got {got}. Give another value.")


def not_installed(module: str) -> InputError | None:
    """The error of a `module` that is not installed, naming the smallest extra of this package which brings it; None
    where none does."""
    package = module.partition(".")[0].replace("_", "-")
    extras: dict[str, list[str]] = {}
    for requirement in metadata.requires("isoembed") or ():
        if named := re.fullmatch(r"""([\w.-]+).*; extra == ["'](\w+)["']""", requirement):
            extras.setdefault(named[2], []).append(named[1].replace("_", "-"))
    bringing = [extra for extra, packages in extras.items() if package in packages]
    if not bringing:
        return None
    smallest = min(bringing, key=lambda extra: len(extras[extra]))
    return InputError(f"This needs {package}, which is not installed: pip install 'isoembed[{smallest}]'.")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """`function` as users call it: an argument that its annotation does not allow is an InputError that names it.

    Annotations are read at the first call, so that decorating costs nothing and a class may name itself.
    """
    signature = inspect.signature(function)

    @functools.cache
    def reader() -> Callable[..., dict[str, Any]]:
        @functools.wraps(function)
        def read(**values: Any) -> dict[str, Any]:
            return values

        return validate_call(config=ConfigDict(arbitrary_types_allowed=True))(read)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        called = function.__qualname__.removesuffix(".__init__")
        try:
            given = signature.bind(*args, **kwargs).arguments
            values = reader()(**given)
        except TypeError as error:
            raise TypeError(f"{called}: {error}") from None
        except ValidationError as error:
            name = str(error.errors()[0]["loc"][0])
            wanted = signature.parameters[name].annotation
            shown = " ".join(repr(given[name]).split())  # a table is shown in many lines
            got = f"{shown[:200]} ({type(given[name]).__name__})"
            raise InputError(f"`{name}` of {called} must be {wanted}; got {got}. Give another value.") from None
        return function(**{name: values[name] for name in given})  # type: ignore[call-arg]

    return call


def check_named(field: str, name: object, known: Iterable[str]) -> None:
    """Raise InputError unless `name` is one of the `known` names of what `field` says."""
    if name not in (known := tuple(known)):
        raise InputError(f"`{field}` must be one of {', '.join(known)}; got {name!r}.")


def one_of(field: str, names: Any) -> BeforeValidator:
    """Refuses in our own words what is none of the Literal's `names`, where pydantic would in its own."""

    def check(name: Any) -> Any:
        check_named(field, name, get_args(names))
        return name

    return BeforeValidator(check)


def number_of(count: float, noun: str) -> str:
    """`1 run`, `1,200 runs`, `2.5 epochs`; `noun` is one that takes an s."""
    shown = int(count) if count == int(count) else round(count, 2)
    return f"{shown:,} {noun}{'' if shown == 1 else 's'}"


def fingerprint(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of `value` as canonical JSON (sorted keys, no spaces)."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # names of files may hold bytes that are no UTF-8, as lone surrogates
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


#: what the system says where nothing can be written, whatever is tried: full, over quota, read-only, over a limit
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


def system_error(error: BaseException) -> OSError | None:
    """The operating system's complaint behind `error`, also where a library in Rust words it; None where there is none,
    or a rule of ours says it better."""
    if isinstance(error, OSError):
        return error
    if isinstance(error, InputError):
        return None
    said = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(said[1]), os.strerror(int(said[1]))) if said else None


def no_room(error: BaseException) -> bool:
    """Whether `error` says that the disk takes no more, which is no fault of what was being done."""
    system = system_error(error)
    return system is not None and system.errno in _NO_ROOM


def portable(error: Exception) -> Exception | None:
    """What another process is told of `error`, in types that pickle whole: the system's complaint, or the rule that was
    broken with its exit status; None where it is neither, which is a defect."""
    if (system := system_error(error)) is not None:
        return OSError(system.errno, system.strerror, system.filename) if system.errno else OSError(str(system))
    if isinstance(error, InputError):
        plain = InputError(str(error))
        plain.exit_code = error.exit_code
        return plain
    return None


def from_os_error(error: OSError) -> str:
    """What the operating system refused (a full disk, a folder without permission, a name too long), in one line."""
    where = f" at {error.filename}" if error.filename else ""
    why = os.strerror(error.errno) if error.errno else error
    return (
        f"The system refused to read or write: {why}{where}. Check space and permissions, or name "
        "another place; --debug shows where."
    )


#: a dataset on the hub, as it stands in the name of data
_ON_HUB = re.compile(r"hub:[A-Za-z0-9][\w.-]*/[A-Za-z0-9][^/]*$")


def placeless(data: str) -> str:
    """The name of `data` as it may be published: of a path its last part alone, which says nothing of the machine or
    of who uses it."""
    return ",".join(part if _ON_HUB.match(part) else part.rpartition("/")[2] for part in data.split(","))


def short_name(source: str) -> str:
    """A file's name up to its first dot, which says what it holds; a hub id as it is."""
    return source if _ON_HUB.match(source) else source.partition(".")[0]


@contextmanager
def no_panic(whose: str) -> Iterator[None]:
    """Turn a panic of the tokenizer's Rust (a pattern that backtracks without end) into an InputError; what Rust prints
    of it is not shown."""
    try:
        with _held_back() as held:
            try:
                yield
            except BaseException as error:
                if _is_panic(error):
                    held.seek(0)  # standard error writes from here too
                    held.truncate()
                raise
    except BaseException as error:
        if not _is_panic(error):
            raise
        raise InputError(
            f"{whose} fails on a text ({error}). Correct the pattern in its tokenizer.json, or choose another model."
        ) from None


def _is_panic(error: BaseException) -> bool:
    return type(error).__name__ == "PanicException"  # pyo3's, which is no Exception and has no name to import


#: one thread at a time may hold standard error back
_HOLDING = RLock()


@contextmanager
def _held_back() -> Iterator[IO[bytes]]:
    """Within it what this process, in whatever language, writes to standard error goes to a file, and at the end from
    there to standard error."""
    # in memory where the system can: a machine's temporary folder may be full or closed
    in_memory = hasattr(os, "memfd_create")
    with _HOLDING, os.fdopen(os.memfd_create("held"), "r+b") if in_memory else tempfile.TemporaryFile() as held:
        try:
            before = os.dup(2)
        except OSError:  # closed
            yield held
            return
        os.dup2(held.fileno(), 2)
        try:
            yield held
        finally:
            os.dup2(before, 2)
            held.seek(0)
            with suppress(OSError):
                os.write(before, held.read())
            os.close(before)


def expanded(path: str | Path) -> Path:
    """`path` with the home folder for `~`; as it stands where nobody has such a home (pathlib would raise).  Raises
    InputError for an empty text, which would be the working folder, and for a name that no file system takes."""
    if path == "":
        raise InputError("A path must name a file or a folder; it is empty. Give one; `.` is the working folder.")
    found = Path(os.path.expanduser(path))
    if long := next((part for part in found.parts if len(part.encode(errors="surrogatepass")) > 255), None):
        raise InputError(f"A file's name has at most 255 bytes; got {long[:40]!r} and more. Shorten it.")
    return found


def synced(path: Path) -> None:
    """Wait until the file, or the list of the folder's files, is on the disk: a power cut then leaves it as it is."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write `content` so that a reader, a kill or a power cut at any moment sees the old file or the new one, never
    half."""
    with _partial(file, content) as partial:
        partial.replace(file)
    synced(file.parent)


def write_once(file: Path, content: str | bytes) -> bool:
    """As `write_atomically`, but False, and nothing written, where the file is there already: of rivals one wins."""
    with _partial(file, content) as partial:
        try:
            os.link(partial, file)  # unlike a rename this never replaces what another process wrote
        except FileExistsError:
            return False
    synced(file.parent)
    return True


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Within it no other process that asks may write to `folder`: it gets an InputError.  A kill sets the folder
    free."""
    # imported here so that commands that write nothing start fast
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            try:
                yield
            finally:
                with suppress(OSError):  # while it is still held, so that whoever comes next makes a new one
                    (folder / ".lock").unlink()
    except Timeout:
        raise InputError(
            f"One process at a time may write to a folder; another one writes to {folder}. Wait for it, or name "
            "another folder."
        ) from None


@contextmanager
def _partial(file: Path, content: str | bytes) -> Iterator[Path]:
    """`content` in a file beside `file` that no other writer shares, gone afterwards, also where the disk is full."""
    if not file.name:
        raise InputError(f"A file to write must have a name; got {str(file)!r}. Name one.")
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        synced(partial)
        yield partial
    finally:
        partial.unlink(missing_ok=True)
