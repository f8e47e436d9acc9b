"""What every other module may lean on: frozen pydantic values and the one error a user's mistake raises."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class InputError(ValueError):
    """A user's mistake, worded as rule, value, remedy.  The command line prints it without a traceback."""


#: the largest whole number up to which a float holds every one
LARGEST = 2**53
#: a number of things
Count = Annotated[int, Field(ge=0, le=LARGEST)]
#: a number of things of which there is at least one
Some = Annotated[int, Field(ge=1, le=LARGEST)]


class Frozen(BaseModel):
    """A value: immutable, rejects unknown fields, compares and hashes by content."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def rejected(error: ValidationError, owner: str = "") -> InputError:
    """The first complaint of pydantic's about a value a user gave, as an InputError; `owner` says whose field it is."""
    first = error.errors()[0]
    whose = f" of {owner}" if owner else ""
    return InputError(f"`{first['loc'][0]}`{whose}: {first['msg']}; got {first['input']}. Give another value.")


def fingerprint(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of `value` as canonical JSON (sorted keys, no spaces)."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def refused(error: OSError) -> str:
    """What the operating system refused (a full disk, a folder without permission, a name too long), in one line."""
    where = f" at {error.filename}" if error.filename else ""
    return (
        f"The system refused to read or write: {error.strerror or error}{where}. Check space and permissions, or name "
        "another place; --debug shows where."
    )


def expanded(path: str) -> Path:
    """`path` with the home folder for `~`; as it stands where nobody has such a home (pathlib would raise)."""
    return Path(os.path.expanduser(path))


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write `content` so that a reader, or a kill at any moment, sees the old file or the new one, never half."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{uuid.uuid4().hex}.partial")  # two writers never share one
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    partial.replace(file)
