"""Commands that take groups of options: frozen values, each field of which is one option of the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, get_args, get_type_hints

from typer.models import OptionInfo, ParameterInfo


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """`command` as Typer reads it: one parameter for each field of the groups that it takes, its own as they are.

    A group is a dataclass whose fields are `Annotated[type, typer.Option(...)]`, or groups in their turn.  Its `panel`
    heads those of its options in the help that name none themselves.
    """
    hints = get_type_hints(command, include_extras=True)
    own = inspect.signature(command).parameters
    flat: dict[str, inspect.Parameter] = {}
    for name, hint in hints.items():
        if name == "return":
            continue
        for each in _options(hint) if is_dataclass(hint) else [own[name].replace(annotation=hint)]:
            if each.name in flat:
                raise TypeError(f"{command.__name__} takes `{each.name}` twice")
            flat[each.name] = each.replace(kind=inspect.Parameter.KEYWORD_ONLY)

    def flattened(**given: Any) -> None:
        command(**{name: _packed(hint, given, name) for name, hint in hints.items() if name != "return"})

    flattened.__name__, flattened.__doc__, flattened.__module__ = command.__name__, command.__doc__, command.__module__
    flattened.__signature__ = inspect.Signature(list(flat.values()))  # type: ignore[attr-defined]
    flattened.__annotations__ = {name: each.annotation for name, each in flat.items()}
    return flattened


def _options(group: Any) -> Iterator[inspect.Parameter]:
    """A parameter for each option of `group`, required ones without a default."""
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        if is_dataclass(hints[field.name]):
            yield from _options(hints[field.name])
            continue
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        annotation = _in_panel(hints[field.name], getattr(group, "panel", None))
        yield inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _in_panel(annotation: Any, panel: str | None) -> Any:
    kind, info = get_args(annotation)
    assert isinstance(info, ParameterInfo)
    info = copy(info)
    if isinstance(info, OptionInfo):  # arguments have a place of their own
        info.rich_help_panel = info.rich_help_panel or panel
    return Annotated[kind, info]


def _packed(hint: Any, given: dict[str, Any], name: str) -> Any:
    if not is_dataclass(hint):
        return given[name]
    hints = get_type_hints(hint, include_extras=True)
    return hint(**{field.name: _packed(hints[field.name], given, field.name) for field in fields(hint)})  # type: ignore[operator]
