"""`Answers`: what a result cache keeps, and who waits for what is not there yet.

Everything is called in the thread of one event loop, and nothing here blocks or awaits.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

from ..policy.byte_lru import ByteLru
from ..policy.single_flight import SingleFlight
from .parcel import Parcel

__all__ = ["Answers", "CacheStats", "Seeker"]


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a `ResultCache` did so far, and what it holds."""

    hits: int
    """Items answered from what was kept."""
    shared: int
    """Items answered by another call, which was computing an equal one already."""
    misses: int
    """Items that had to be computed."""
    entries: int
    """Answers that are kept now."""
    bytes: int
    """What they weigh: as pickles, with the memory of their arrays."""
    evictions: int
    """Answers that had to make room for others."""
    unkept: int
    """Answers that cannot be pickled, or are larger than the whole cache."""


class Seeker(Protocol):
    """Somebody who wants the answer for one key. Hashed and compared by identity."""

    def lead(self) -> None:
        """Find the answer: whoever was to find it has failed."""
        ...

    def receive(self, parcel: Parcel) -> None:
        """Whoever was to find it has found it."""
        ...


class Answers:
    """Parcels by key, the least recently used go first; and the flights of those to come."""

    def __init__(self, max_bytes: int) -> None:
        self._lru: ByteLru[Hashable] = ByteLru(max_bytes)
        self._parcels: dict[Hashable, Parcel] = {}
        self._flights: SingleFlight[Seeker] = SingleFlight()
        self._hits = 0
        self._shared = 0
        self._misses = 0
        self._unkept = 0

    @property
    def in_flight(self) -> int:
        """How many answers somebody is about to find."""
        return len(self._flights)

    def find(self, key: Hashable) -> Parcel | None:
        """Return the answer, if it is kept."""
        if not self._lru.touch(key):
            return None
        self._hits += 1
        return self._parcels[key]

    def join(self, key: Hashable, seeker: Seeker) -> bool:
        """Take part in finding the answer; return whether `seeker` is the one to find it."""
        leads = self._flights.join(key, seeker)
        self._misses += leads
        return leads

    def keep(self, key: Hashable, seeker: Seeker, parcel: Parcel | None) -> None:
        """Take the answer that `seeker` has found; None: it cannot be packed."""
        if parcel is None:
            self._unkept += 1
            self.leave(key, seeker)
            return
        self._store(key, parcel)
        # It may have lost the lead: cancelled, but its micro-batch ran to its end all the same.
        if self._flights.leads(key, seeker):
            for follower in self._flights.land(key, seeker):
                self._shared += 1
                follower.receive(parcel)

    def leave(self, key: Hashable, seeker: Seeker) -> None:
        """Take no part any more; if `seeker` led, the next one does. Idempotent."""
        heir = self._flights.leave(key, seeker)
        if heir is not None:
            self._misses += 1
            heir.lead()

    def forget(self, matches: Callable[[Hashable], bool]) -> None:
        """Drop what is kept for the keys that match."""
        for key in self._lru.remove_where(matches):
            del self._parcels[key]

    def stats(self) -> CacheStats:
        """Return a snapshot."""
        return CacheStats(
            hits=self._hits,
            shared=self._shared,
            misses=self._misses,
            entries=len(self._lru),
            bytes=self._lru.used,
            evictions=self._lru.evictions,
            unkept=self._unkept,
        )

    def _store(self, key: Hashable, parcel: Parcel) -> None:
        gone = self._lru.add(key, parcel.nbytes)
        if gone is None:
            self._unkept += 1
            self._parcels.pop(key, None)
            return
        for other in gone:
            del self._parcels[other]
        self._parcels[key] = parcel
