"""Prepared pairs on their way to another machine, which has neither their source nor, perhaps, their files.

What travels is what `prepare` came to: the token stores and the rows of the split.  Nothing is read, tokenised or split
again on arrival, so that both ends train on the same pairs in the same order.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from isoembed.core import InputError
from isoembed.data.dataset import PairData
from isoembed.data.notes import DataNote
from isoembed.data.store import RowNumbers, TokenStore
from isoembed.recipe import DataStats
from isoembed.scratch import own_folder, remove, shared


@dataclass(frozen=True, eq=False)
class ShippedStore:
    """A token store: where it lies, and its files where they travel too.  Its folder's name says what is in it."""

    folder: Path
    files: dict[str, npt.NDArray[np.uint8]]

    @classmethod
    def of(cls, store: TokenStore, *, files: bool) -> Self:
        names = sorted(file.name for file in store.folder.iterdir()) if files else []
        return cls(store.folder.resolve(), {name: np.fromfile(store.folder / name, np.uint8) for name in names})

    def open(self, place: Callable[[], Path]) -> TokenStore:
        """The store where it lies, or else unpacked in `place` on this machine, once for all processes and runs."""
        if not self.files:
            if not self.folder.is_dir():
                raise InputError(
                    f"A shared folder must lie under the same path on every machine; {self.folder} does not. "
                    "Mount it there, or have the pairs shipped."
                )
            return TokenStore.open(self.folder)

        def unpack(partial: Path) -> None:
            for name, content in self.files.items():
                content.tofile(partial / name)

        return TokenStore.kept(place() / self.folder.name, unpack)


@dataclass(frozen=True, eq=False)
class PackedData:
    """A `PairData` as it travels; `heldout_store` is None where it is the same store."""

    store: ShippedStore
    train: RowNumbers
    heldout_store: ShippedStore | None
    heldout: RowNumbers
    stats: DataStats
    facts: tuple[DataNote, ...]
    datasets: tuple[str, ...] = ()
    clusters: npt.NDArray[np.int32] | None = None
    name: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def of(cls, data: PairData, *, files: bool) -> Self:
        """`files`: the token stores travel too; otherwise the other machine sees them under the same path."""
        same = data.heldout_store.folder == data.store.folder
        return cls(
            ShippedStore.of(data.store, files=files),
            data.train,
            None if same else ShippedStore.of(data.heldout_store, files=files),
            data.heldout,
            data.stats,
            data.facts,
            data.datasets,
            data.clusters,
        )

    def open(self) -> PairData:
        """The pairs on this machine; what is unpacked stays until `forget`, or until all processes that opened it have
        ended and another one comes."""
        store = self.store.open(self._place)
        heldout_store = store if self.heldout_store is None else self.heldout_store.open(self._place)
        train, heldout = self.train.copy(), self.heldout.copy()  # views would keep what they arrived in
        clusters = None if self.clusters is None else self.clusters.copy()
        return PairData(
            store, train, heldout_store, heldout, self.stats, self.facts, datasets=self.datasets, clusters=clusters
        )

    def forget(self) -> None:
        """Remove what was unpacked on this machine; the pairs are not to be opened again."""
        remove(self._place())

    def _place(self) -> Path:
        return shared(own_folder(), "pairs-", self.name)
