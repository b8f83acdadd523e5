"""Nested calls: would this one wait for the very workers that wait for it?

A worker that calls another tool keeps its device and serves nobody until it has its answer. So a
call may come to wait for workers that wait for it, over any number of steps, and then nobody would
ever get anything. Whoever makes such a call last is told at once; everybody else goes on.

The question has a simple answer, because a worker that waits for no call is done some day. Begin
with all who wait as stuck. A call that some worker which is not stuck could serve, a running one or
one that could be opened once all but the stuck have left their devices, will be answered: its
chain is not stuck because of it. Go on until nothing changes. Whoever is stuck then, is for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple, TypeVar

__all__ = ["DEEPEST", "Wait", "hopeless"]

DEEPEST = 16
"""The most calls that may stand inside each other: a tool that calls itself without an end would
otherwise start workers until the machine is full."""


class Wait(NamedTuple):
    """Somebody who holds device claims and waits for the workers of one crew."""

    chain: frozenset[int]
    """The claims that are held until the wait is over: those of the workers up the chain of calls,
    and of the leases around it."""
    serving: frozenset[int]
    """The claims of the workers that would serve it when they are idle."""


Key = TypeVar("Key", bound=Hashable)


def hopeless(
    waits: Mapping[Key, Wait], could_open: Callable[[Key, frozenset[int]], bool]
) -> set[Key]:
    """Return the waits that no amount of waiting would end.

    Args:
        waits: everybody who waits, by anything.
        could_open: for one of them and the claims that stay for ever: whether a further worker
            could serve it some day, when everybody else has left.
    """
    stuck = set(waits)
    while stuck:
        staying = _held_by(stuck, waits)
        saved = {key for key in stuck if waits[key].serving - staying or could_open(key, staying)}
        if not saved:
            break
        stuck -= saved
    return stuck


def _held_by(keys: set[Key], waits: Mapping[Key, Wait]) -> frozenset[int]:
    return frozenset[int]().union(*(waits[key].chain for key in keys))
