"""What the fuzz tests share: how many examples, and how a file is spoilt.

`python -m pytest tests/reliability/test_fuzz.py` draws 40 fixed examples a property, in seconds; with
ISOEMBED_FUZZ=long in the environment the same tests draw 1,000 new ones each.
"""

from __future__ import annotations

import copy
import json
import math
import os
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

#: longer than any input here may take, on a busy machine; a hang fails
DEADLINE = timedelta(seconds=60)
_COMMON: dict[str, Any] = {
    "deadline": DEADLINE,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
}
settings.register_profile("suite", max_examples=40, derandomize=True, **_COMMON)
settings.register_profile(
    "long", max_examples=1000, print_blob=True, phases=[Phase.explicit, Phase.generate], **_COMMON
)
FUZZ = settings.get_profile(os.environ.get("ISOEMBED_FUZZ", "suite"))

#: what stands where a number, a text or a list should
HOSTILE: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 2, 0.5, -0.0, 1e-320, 1e18, 1e308, math.nan, math.inf, -math.inf, 10**400, 2**63),
    *("", " ", "\0", "\ud800", "../../x", "/", "~nobody/x", "x" * 5000, "1e3", "<script>", "[red]", "[/]", "é"),
    *([], {}, [[]], [None], {"": None}, [1e308] * 3),
)


@st.composite
def spoilt(draw: st.DrawFn, base: Any) -> bytes:
    """The JSON of `base` with one to three of its parts replaced, removed or repeated; at times bytes are changed too,
    or the file is cut."""
    value = copy.deepcopy(base)
    for _ in range(draw(st.integers(1, 3))):
        value = _changed(draw, value)
    text = json.dumps(value).encode()
    if draw(st.integers(0, 5)) == 0:
        text = draw(mangled(text))
    return text


@st.composite
def mangled(draw: st.DrawFn, base: bytes) -> bytes:
    """Bytes inserted, removed or repeated, or the end cut off."""
    text = bytearray(base)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        end = draw(st.integers(at, min(len(text), at + 40)))
        how = draw(st.sampled_from(["replace", "insert", "repeat", "cut"]))
        if how == "cut":
            del text[at:]
        elif how == "repeat":
            text[at:at] = text[at:end]
        else:
            text[at : end if how == "replace" else at] = draw(st.binary(max_size=20))
    return bytes(text)


def _changed(draw: st.DrawFn, value: Any) -> Any:
    """`value` with one part of it changed, at whatever depth."""
    if not isinstance(value, (dict, list)) or not value or draw(st.integers(0, 9)) == 0:
        return copy.deepcopy(draw(st.sampled_from(HOSTILE) | st.integers() | st.floats() | st.text(max_size=20)))
    key = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
    how = draw(st.integers(0, 9))
    if how == 0:
        del value[key]
    elif how == 1 and isinstance(value, list):
        value.insert(key, copy.deepcopy(value[key]))
    elif how == 1 and isinstance(value, dict):
        value[draw(st.sampled_from(["", "x", "../x", "format", "name"]))] = copy.deepcopy(value[key])
    else:
        value[key] = _changed(draw, value[key])
    return value
