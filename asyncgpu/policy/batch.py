"""What a batch plan hands out, and what it tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

__all__ = ["Batch", "ItemOutcome", "PlanStats", "Settled", "SlotStats"]


class ItemOutcome(Enum):
    """How an item ended; each item ends once."""

    SUCCEEDED = 1
    FAILED = 2
    """The tool raised over this item alone."""
    DIED = 3
    """Quarantined: too many workers died while they ran this item alone."""
    CANCELLED = 4
    """The run was cancelled before the item had another outcome."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A micro-batch, to be run by one slot in one go.

    Attributes:
        id: its number in the run, from 0.
        slot: the slot that it was handed to.
        items: the numbers of its unique items.
        alone: whether it holds one item only, so that what happens to it is that item's doing.
        attempt: which run of the items this is, from 1; batches that were returned do not count.
    """

    id: int
    slot: int
    items: Sequence[int]
    alone: bool
    attempt: int


class Settled(NamedTuple):
    """The items that have just got their outcome; none, if they are to be run again."""

    outcome: ItemOutcome
    items: Sequence[int]


@dataclass(frozen=True, slots=True)
class SlotStats:
    """One slot's part in a run, so far.

    Attributes:
        batches: how many were handed to it.
        items: how many items it settled.
        seconds: how long its batches took that came back.
        steals: how often it took work from another slot's queue.
        retries: how many of its batches ran an item again.
        speed: as opened, corrected by what was measured.
    """

    batches: int
    items: int
    seconds: float
    steals: int
    retries: int
    speed: float


@dataclass(frozen=True, slots=True)
class PlanStats:
    """A run, so far.

    Attributes:
        queued: items not handed out, or to be run again.
        in_flight: items with a worker.
        outcomes: how many items settled, by outcome.
        seconds_per_cost: as measured on a slot of speed 1; None: nothing measured yet.
        slots: each slot that was ever open, by its number.
    """

    queued: int
    in_flight: int
    outcomes: Mapping[ItemOutcome, int]
    seconds_per_cost: float | None
    slots: Mapping[int, SlotStats]

    @property
    def batches(self) -> int:
        return sum(slot.batches for slot in self.slots.values())

    @property
    def steals(self) -> int:
        return sum(slot.steals for slot in self.slots.values())

    @property
    def retries(self) -> int:
        return sum(slot.retries for slot in self.slots.values())
