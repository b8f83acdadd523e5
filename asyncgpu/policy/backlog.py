"""What of a run is still to be handed out in batches, and which slot gets what.

Fresh items wait in one common row, the costliest first. A slot that asks gets from its head, if it
would finish that item before any other slot would (LPT, with the loads and speeds of this moment);
otherwise the item goes to the queue of the slot that would, and the next one is looked at. So with
equal slots nothing is ever queued ahead, and a slot that joins late or leaves early changes no
plan; with unequal slots the fast one keeps what it alone should do. When the row is empty, a slot
takes from the tail of the longest queue what it would finish before its owner.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from .micro_batch import BatchLimit
from .rank_queue import RankQueue
from .slot_shard import SlotShard
from .work_order import WorkOrder

__all__ = ["Backlog"]


class Backlog:
    """The common row, and the queues of the open slots.

    Attributes:
        open: the shard of each open slot, by the slot's number.
    """

    def __init__(self, order: WorkOrder) -> None:
        self._order = order
        self._fresh = range(len(order))
        # Came back from a slot, so they cost more than what is fresh; or came after the beginning,
        # and then nothing is fresh.
        self._returned = RankQueue(order)
        self.open: dict[int, SlotShard] = {}

    def __len__(self) -> int:
        return len(self._fresh) + len(self._returned) + sum(map(len, self._queues()))

    def __iter__(self) -> Iterator[int]:
        return chain(self._fresh, self._returned, *self._queues())

    def outlook(self) -> tuple[int, float, float]:
        """Return how many items are here, what they cost, and the open slots' speed together."""
        items = len(self._fresh) + len(self._returned)
        cost = self._order.cost(self._fresh) + self._returned.cost
        speed = 0.0
        for shard in self.open.values():
            items += len(shard.queue)
            cost += shard.queue.cost
            speed += shard.speed
        return items, cost, speed

    def open_slot(self, shard: SlotShard) -> None:
        # In order of their numbers, so that the order in which slots come decides nothing.
        self.open = dict(sorted([*self.open.items(), (shard.slot, shard)]))

    def close_slot(self, slot: int) -> None:
        """Put the slot's queue back into the common row."""
        self.put_back(self.open.pop(slot).queue.clear())

    def admit(self, rank: int) -> None:
        """Add a rank that was not known when the run began, at its place in the row."""
        self._returned.push(rank)

    def put_back(self, ranks: Iterable[int]) -> None:
        """Take back ranks that were handed out; they are the next to go."""
        self._returned.merge(ranks)

    def clear(self) -> list[int]:
        """Return every rank and keep none."""
        ranks = [*self._fresh, *self._returned.clear()]
        self._fresh = range(len(self._order), len(self._order))
        for queue in self._queues():
            ranks += queue.clear()
        return ranks

    def check_invariants(self) -> None:
        """Raise AssertionError unless the row runs from the costliest item to the cheapest."""
        self._returned.check_invariants()
        assert not self._fresh or all(rank < self._fresh.start for rank in self._returned)

    def draw(self, shard: SlotShard, limit: BatchLimit) -> Sequence[int]:
        """Return the ranks of the slot's next batch; empty: another slot is better for them."""
        if not shard.queue and not self._deal(shard):
            return self._steal(shard, limit.items)
        if not shard.queue and not self._returned:
            return self._take_fresh(limit)
        return self._gather(shard, limit)

    def _deal(self, asker: SlotShard) -> bool:
        """Deal the head of the row until the asker is the one to finish it first."""
        while self._returned or self._fresh:
            head = self._returned.head if self._returned else self._fresh.start
            first = self._first_to_finish(self._order.cost_at(head), asker)
            if first is asker:
                return True
            first.queue.push(self._next())
        return False

    def _first_to_finish(self, cost: float, asker: SlotShard) -> SlotShard:
        """The earliest finish wins; then the lower load, the slot that asks, the lower number."""
        first, best = asker, (asker.finish(cost), asker.load)
        for shard in self.open.values():
            if (bid := (shard.finish(cost), shard.load)) < best:
                first, best = shard, bid
        return first

    def _take_fresh(self, limit: BatchLimit) -> range:
        fresh = self._fresh
        count = max(min(limit.items, len(fresh), self._order.fit(fresh.start, limit.cost)), 1)
        self._fresh = fresh[count:]
        return fresh[:count]

    def _gather(self, shard: SlotShard, limit: BatchLimit) -> Sequence[int]:
        """Fill a batch from the slot's own queue, then from the row."""
        ranks: list[int] = []
        room = limit.cost
        while len(ranks) < limit.items and (queue := shard.queue or self._returned):
            cost = self._order.cost_at(queue.head)
            if ranks and cost > room:
                return ranks
            ranks.append(queue.pop_head())
            room -= cost
        fits = min(limit.items - len(ranks), self._order.fit(self._fresh.start, room))
        ranks += self._fresh[:fits]
        self._fresh = self._fresh[fits:]
        unbroken = range(ranks[0], ranks[0] + len(ranks))
        return unbroken if ranks == list(unbroken) else ranks

    def _steal(self, shard: SlotShard, most: int) -> list[int]:
        """Take from the tail of the longest queue what `shard` would finish before its owner."""
        ranks: list[int] = []
        stolen = 0.0
        while len(ranks) < most and (victim := self._longest_queue()):
            cost = self._order.cost_at(victim.queue.tail)
            if shard.finish(stolen + cost) > victim.finish():
                break
            ranks.append(victim.queue.pop_tail())
            stolen += cost
        shard.steals += bool(ranks)
        return sorted(ranks)

    def _longest_queue(self) -> SlotShard | None:
        owners = [shard for shard in self.open.values() if shard.queue]
        return max(owners, key=lambda owner: (owner.finish(), -owner.slot), default=None)

    def _next(self) -> int:
        if self._returned:
            return self._returned.pop_head()
        head = self._fresh.start
        self._fresh = self._fresh[1:]
        return head

    def _queues(self) -> Iterator[RankQueue]:
        return (shard.queue for shard in self.open.values())
