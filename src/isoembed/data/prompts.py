"""Prompts: how long one is in tokens, and whose they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from isoembed.core import InputError, short_name
from isoembed.options import Prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, prompt: str) -> int:
    """How many of a text's first tokens are those of `prompt` in front of it, as sentence-transformers counts them: the
    prompt's own without a special token at its end."""
    if not prompt:
        return 0
    ids = tokenizer(prompt, verbose=False)["input_ids"]
    return len(ids) - int(ids[-1] in tokenizer.all_special_ids)


def check_sources(prompts: Prompts, names: Sequence[str]) -> None:
    """Raise InputError where a source has prompts that is none of those called `names`."""
    known = {*names, *map(short_name, names)}
    if unknown := [each.source for each in prompts.sources if each.source not in known]:
        raise InputError(
            f"Prompts of a source must name one of the data's, {', '.join(names)}; got {', '.join(unknown)}. "
            "Rename or leave it out."
        )
