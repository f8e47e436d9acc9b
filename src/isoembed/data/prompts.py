"""How long a prompt is in tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, prompt: str) -> int:
    """How many of a text's first tokens are those of `prompt` in front of it, as sentence-transformers counts them: the
    prompt's own without a special token at its end."""
    if not prompt:
        return 0
    ids = tokenizer(prompt, verbose=False)["input_ids"]
    return len(ids) - int(ids[-1] in tokenizer.all_special_ids)
