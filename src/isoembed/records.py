"""RunRecord: what happened in one run, written once."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from isoembed.core import Frozen, InputError, write_atomically
from isoembed.recipe import Recipe


class Heldout(Frozen):
    """Contrastive loss on a fixed held-out set, the number that laws are fitted to.

    Computed in blocks of `candidates` pairs, never the training batch, so that runs with different batches compare.
    Records compare only where `fingerprint` (pairs, blocks, temperature) is the same.
    """

    loss: float
    pairs: int
    candidates: int
    fingerprint: str


class LossPoint(Frozen):
    """One optimiser step: tokens seen after it, its loss in nats, its learning rate."""

    step: int
    tokens: int
    loss: float
    rate: float


class RunRecord(Frozen):
    """The facts of one run.  Opinions (fits, figures) are derived from records, never stored in them."""

    recipe: Recipe
    key: str
    status: Literal["done", "failed"] = "done"
    failure: str | None = None
    data_fingerprint: str
    forward_params: int = Field(description="N_F")
    backward_params: int = Field(description="N_B")
    updated_params: int = Field(description="N_U")
    table_params: int = Field(description="token-table parameters trained; no part of C")
    trainable_params: int
    steps: int
    pairs: int
    tokens: int = Field(description="D: real tokens processed")
    model_flop: float = Field(description="C, counted on the real tokens")
    executed_flop: float = Field(description="C with padding and recomputation")
    all_in_flop: float = Field(description="C with attention and the token table's update")
    final_loss: float | None = Field(description="mean training loss of the last tenth of the steps; None before one")
    heldout_before: Heldout | None = None
    heldout: Heldout | None = None
    wall_seconds: float
    peak_memory_bytes: int
    tokens_per_second: float
    loss_curve: tuple[LossPoint, ...]
    versions: dict[str, str]
    machine: dict[str, str]
    created: str = Field(description="UTC, ISO 8601")

    def save(self, file: Path) -> None:
        """Write the record as JSON, atomically."""
        write_atomically(file, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, file: Path) -> RunRecord:
        """Read a record; raises InputError naming the file where it is damaged."""
        try:
            return cls.model_validate_json(file.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise InputError(
                f"{file} is not a run record ({where or 'JSON'}: {first['msg']}); restore or remove it."
            ) from None
