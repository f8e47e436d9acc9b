"""What a user writes as text, as numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from isoembed.budget import MOST_FLOP
from isoembed.core import InputError

#: what an allowance may look like
_ALLOWANCES = "1e15 (FLOP), 3h, 90min or 600s"


def numbers(text: str, option: str) -> tuple[float, ...]:
    """`100,300` -> 100.0, 300.0."""
    return tuple(number(part, option) for part in text.split(","))


def budgets(text: str) -> tuple[float, ...]:
    """`1e12:2e13:x4` -> 1e12, 4e12, 1.6e13; `1e12,4e12` as it stands, ascending."""
    match = re.fullmatch(r"([^:]+):([^:]+):x([^:]+)", text)
    if match is None:
        return tuple(sorted(numbers(text, "--budgets")))
    low, high, factor = (number(part, "--budgets") for part in match.groups())
    if not (low <= high and factor > 1):
        raise InputError(f"`--budgets` LOW:HIGH:xFACTOR must rise by a factor above 1; got {text!r}.")
    count = math.floor(math.log(high / low) / math.log(factor) + 1e-9)
    if count > 1000:
        raise InputError(f"`--budgets` must be 1000 at most; {text!r} makes {count:,}. Raise the factor.")
    return tuple(low * factor**power for power in range(count + 1))


def allowance(text: str | None) -> tuple[float | None, float | None]:
    """FLOP, seconds: one of the two, or neither."""
    if text is None:
        return None, None
    for unit, seconds in (("min", 60.0), ("h", 3600.0), ("s", 1.0)):
        if text.endswith(unit):
            return None, _number(text, text.removesuffix(unit), "--allowance", _ALLOWANCES) * seconds
    return _number(text, text, "--allowance", _ALLOWANCES), None


def share_of(whole: float, text: str, option: str) -> float:
    """`5%` of `whole`, or a number of FLOP below it."""
    share = _number(text, text.removesuffix("%"), option, "5%, or 1e12 (FLOP)")
    flop = whole * share / 100 if text.endswith("%") else share
    if not flop < whole:
        raise InputError(f"`{option}` must be a part of {whole:.3g} FLOP, as 5%; got {text}.")
    return flop


def size_in_bytes(text: str, option: str = "--memory") -> float:
    """`4GiB`, `500MB`, `2e9` -> bytes."""
    units = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "": 1}
    for unit, scale in units.items():
        if unit and not text.endswith(unit):
            continue
        try:
            value = float(text.removesuffix(unit)) * scale
        except ValueError:
            break
        if 1 <= value <= 2**60:
            return value
    raise InputError(f"`{option}` must be a size, as 4GiB or 500MB; got {text!r}.")


def number(text: str, option: str) -> float:
    """A positive number."""
    return _number(text, text, option, "1e12")


def _number(text: str, digits: str, option: str, forms: str) -> float:
    """The positive number that `digits`, all of `text` or a part of it, is; else the forms are named."""
    try:
        value = float(digits)
    except ValueError:
        value = math.nan
    if not 0 < value <= MOST_FLOP:
        raise InputError(
            f"`{option}` must be made of positive numbers up to {MOST_FLOP:.0e}; got {text!r}. Write them as {forms}."
        )
    return value


def named_texts(given: list[str] | None) -> dict[str, str]:
    """`query=TEXT` -> the prompt named query."""
    prompts = {}
    for each in given or ():
        name, equals, text = each.partition("=")
        if not equals or not name:
            raise InputError(f"`--prompt` must be NAME=TEXT, as query='query: '; got {each!r}.")
        prompts[name] = text
    return prompts


def source_prompts(given: Sequence[str] | None) -> dict[str, dict[str, str]]:
    """`faq:query=TEXT` -> what stands in front of that side of the source faq."""
    prompts: dict[str, dict[str, str]] = {}
    for each in given or ():
        match = re.fullmatch(r"(.+?):(query|positive)=(.*)", each, re.DOTALL)
        if match is None:
            raise InputError(
                "`--source-prompt` must be NAME:query=TEXT or NAME:positive=TEXT, as faq:query='question: '; got "
                f"{each!r}."
            )
        name, side, text = match.groups()
        if side in prompts.setdefault(name, {}):
            raise InputError(f"A prompt is given once; `--source-prompt` has {name}:{side} twice. Leave one out.")
        prompts[name][side] = text
    return prompts
