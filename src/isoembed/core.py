"""What every other module may lean on: frozen pydantic values and the one error a user's mistake raises."""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class InputError(ValueError):
    """A user's mistake, worded as rule, value, remedy.  The command line prints it without a traceback."""

    #: exit status of the command line: 2 wrong use, 1 a job that failed, 130 one that was stopped
    exit_code = 2


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


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write `content` so that a reader, or a kill at any moment, sees the old file or the new one, never half."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{uuid.uuid4().hex}.partial")  # two writers never share one
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    partial.replace(file)
