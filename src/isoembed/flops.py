"""Every FLOP formula, once.

The paper's cost (Ziarko et al. 2024, section 3.5) is

    C = 2 * N_F * D + 2 * N_B * D + 2 * N_U * D

with D the real tokens processed and every N a count of non-token-embedding parameters: those of the forward pass, those
that the backward pass runs through, those updated.  C leaves out: the token table (a lookup, and for full fine-tuning
its update), attention's score and value products, norms and activations, a projection of the embedding (once a text),
the loss, padding and recomputation.
`all_in_flop` adds what can be counted exactly; `executed_flop` adds padding and recomputation.
"""

from __future__ import annotations

import math

from pydantic import Field

from isoembed.core import Frozen


class Cost(Frozen):
    """What one method asks of one model, in non-token-embedding parameters (adapters counted in all three).

    `table` is the number of token-table parameters updated (0 where the table is frozen), `idle` that of trained
    parameters a token does not run through (experts it is not sent to): in memory, never part of C.
    `quantised` is the number of frozen weights kept in 4 bits, which changes memory and no FLOP.
    `blocks_backward` is how many transformer blocks the backward pass runs through.
    """

    forward: int
    backward: int
    updated: int
    table: int = 0
    idle: int = 0
    quantised: int = 0
    blocks_backward: int

    @property
    def flop_per_token(self) -> int:
        """C / D: model FLOP of one training token (section 3.5)."""
        return 2 * (self.forward + self.backward + self.updated)

    @property
    def trained(self) -> int:
        """Parameters that require a gradient, which memory goes by."""
        return self.updated + self.table + self.idle

    @property
    def trained_share(self) -> float:
        """S: the updated share of the parameters that the forward pass runs (section 4.3)."""
        return self.updated / self.forward


class TeacherReading(Frozen):
    """A teacher's forward pass (2 N_T a token of its own) over the texts of a source, of which each is read once."""

    flop: float = Field(ge=0, description="for a token of D, of whichever source, while the source's texts are new")
    until: float = Field(math.inf, gt=0, allow_inf_nan=True, description="D at which the source's texts are all read")


class Price(Frozen):
    """What D tokens cost: C, and a teacher's `readings`, which end while training goes on."""

    train: float = Field(gt=0, description="FLOP of training on a token: C / D")
    readings: tuple[TeacherReading, ...] = ()

    def teacher_flop(self, tokens: float) -> float:
        """The teacher's part of what `tokens` cost."""
        return sum((each.flop * min(tokens, each.until) for each in self.readings), 0.0)

    def flop(self, tokens: float) -> float:
        """What `tokens` cost."""
        return self.train * tokens + self.teacher_flop(tokens)

    def tokens(self, flop: float) -> float:
        """D, the real tokens that `flop` pays for."""
        going = sorted(self.readings, key=lambda each: each.until, reverse=True)
        while True:
            tokens = flop / (self.train + sum(each.flop for each in going))
            if not going or tokens <= going[-1].until:
                return tokens
            ended = going.pop()
            flop -= ended.flop * ended.until


def attention_flop(hidden: int, blocks: int, squared_lengths: float) -> float:
    """Forward FLOP of QK^T and of the weighted sum in `blocks` blocks, over texts whose squared lengths add up to
    `squared_lengths`.

    2 * 2 * T * width a token, over the full T x T square (a kernel that skips the causal half executes half of it).
    As a share of the linear cost 2 * 12 * hidden^2 that is T / (6 * hidden): 1 % at hidden 1024, 10 % at 128, T = 75.
    """
    return 4.0 * squared_lengths * hidden * blocks


def all_in_flop(cost: Cost, *, tokens: float, squared_lengths: float, hidden: int, blocks: int) -> float:
    """C plus the update of the token table and attention, forward and (twice the forward) backward."""
    attention = attention_flop(hidden, blocks, squared_lengths) + 2 * attention_flop(
        hidden, cost.blocks_backward, squared_lengths
    )
    return (cost.flop_per_token + 2 * cost.table) * tokens + attention


def projection_flop(width: int, dimensions: int, texts: int) -> float:
    """FLOP of a learned projection from `width` to `dimensions`: forward, gradient of its input and of its weights."""
    return 6.0 * width * dimensions * texts


def executed_flop(
    cost: Cost, *, processed_tokens: float, recomputed_tokens: float = 0.0, resumed_tokens: float = 0.0
) -> float:
    """FLOP the hardware ran under the same formula: `processed_tokens` real and padding tokens through forward and
    backward, of them `recomputed_tokens` run forward a second time in full, and `resumed_tokens` only through what the
    backward pass runs through (a frozen prefix not run again; gradient checkpointing)."""
    again = 2.0 * cost.forward * recomputed_tokens + 2.0 * cost.backward * resumed_tokens
    return cost.flop_per_token * processed_tokens + again
