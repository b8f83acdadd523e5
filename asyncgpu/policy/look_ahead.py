"""How far a run may draw its source ahead of whoever takes the results.

One number bounds it all: the items that were drawn and whose results nobody has taken yet, whether
they wait, run, or are finished. So an endless source is drawn as fast as its items are worked off
*and* their results taken, and what a run holds never grows beyond that.
"""

from __future__ import annotations

from ..errors import InvalidRequest

__all__ = ["LookAhead", "check_look_ahead"]

# So many micro-batches for each slot: one that runs, one that waits for it, and as many again whose
# results are being taken while the next items are drawn.
_BATCHES = 4
# Micro-batches of a tool without `max_batch` grow as long as they are short in time. Beyond this
# they save hardly any messages any more.
_LARGEST = 1024


class LookAhead:
    """How many items are out, and how many more may be drawn."""

    def __init__(self, slots: int, *, limit: int | None = None, max_batch: int | None) -> None:
        """Begin with nothing drawn.

        Args:
            slots: workers that the run may have.
            limit: the most items that may be out; None: four micro-batches for each slot.
            max_batch: the most items of a micro-batch; None: as many as the largest that ran yet.
        """
        self.slots = slots
        self._fixed = limit
        self._batch = max_batch or 1
        self._grows = max_batch is None
        self.drawn = 0
        self.taken = 0

    @property
    def limit(self) -> int:
        """How many items may be out."""
        return self._fixed or _BATCHES * self.slots * self._batch

    @property
    def room(self) -> int:
        """How many more may be drawn now; never negative."""
        return max(0, self.limit - (self.drawn - self.taken))

    def answered(self, items: int) -> None:
        """Learn the size of a micro-batch that came back."""
        if self._grows and items > self._batch:
            self._batch = min(items, _LARGEST)


def check_look_ahead(limit: object) -> None:
    """Raise unless `limit` is None or a number of items.

    Raises:
        InvalidRequest: it is not.
    """
    if limit is None:
        return
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidRequest(f"look_ahead: {limit!r} is not an int of 1 or more")
