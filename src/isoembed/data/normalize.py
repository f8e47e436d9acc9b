"""When two texts count as the same: the normal form behind every duplicate check; and hashes."""

from __future__ import annotations

import hashlib
import unicodedata

import numpy as np
import numpy.typing as npt


def normalized(text: str) -> str:
    """`text` in NFKC, casefolded, white space collapsed and stripped."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def text_hash(text: str) -> int:
    """64 bits of BLAKE2b.  Among 20 million texts two differ and collide with probability 1e-5."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def mixed_hashes(hashes: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    """Another 64-bit hash of each for every seed: SplitMix64's finaliser (Steele et al. 2014)."""
    mixed = hashes + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % (1 << 64))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
