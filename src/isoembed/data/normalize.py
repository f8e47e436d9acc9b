"""When two texts count as the same: the normal form behind every duplicate check."""

from __future__ import annotations

import hashlib
import unicodedata


def normalized(text: str) -> str:
    """`text` in NFKC, casefolded, white space collapsed and stripped."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def text_hash(text: str) -> int:
    """64 bits of BLAKE2b.  Among 20 million texts two differ and collide with probability 1e-5."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
