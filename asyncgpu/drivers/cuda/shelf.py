"""Streams that were given back, kept for the next context.

A stream is never destroyed: torch remembers streams by their bare handle, in autograd graphs, in
its cache of free memory and on memory shared between streams, and goes back to them long after the
context has closed. So a closed stream is shelved and lent again; there are never more of them than
were open, or still had work pending, at once.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Loan", "StreamShelf"]

Kind = tuple[int, int, Any]
"""Device, level, and the green context the stream runs in; None: all of the device."""


@dataclass(slots=True, eq=False)
class Loan:
    """One borrower's hold on a stream; the next borrower of the same stream has another."""

    stream: Any
    """The torch stream."""
    priority: int
    kind: Kind
    returned: bool = False


class StreamShelf:
    """Lends torch streams by their kind, each to one borrower at a time. Thread-safe.

    Args:
        create: makes a torch stream for ``(device, level, green)`` and returns it with its
            priority.
    """

    def __init__(self, create: Callable[[int, int, Any], tuple[Any, int]]) -> None:
        self._create = create
        self._lock = threading.Lock()
        self._shelved: defaultdict[Kind, list[Loan]] = defaultdict(list)

    def lend(self, device: int, level: int, green: Any = None) -> Loan:
        """Lend a stream that nobody else has and that has nothing pending."""
        kind = (device, level, green)
        with self._lock:
            past = self._take_idle(kind)
            if past is not None:
                return Loan(past.stream, past.priority, kind)
            stream, priority = self._create(device, level, green)
            return Loan(stream, priority, kind)

    def take_back(self, loan: Loan) -> None:
        """End a loan; idempotent."""
        with self._lock:
            if not loan.returned:
                loan.returned = True
                self._shelved[loan.kind].append(loan)

    def _take_idle(self, kind: Kind) -> Loan | None:
        shelved = self._shelved[kind]
        for place, loan in enumerate(shelved):
            # One with work pending stays where it is: nobody waits for it, nobody inherits it.
            if loan.stream.query():
                return shelved.pop(place)
        return None
