"""`Waits`: who waits for which crew while it holds claims, so that nobody waits for himself."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from ..errors import InfeasibleRequest
from ..policy.nesting import DEEPEST, Wait, hopeless

if TYPE_CHECKING:
    from .crew import Crew

__all__ = ["Waits"]

_NOTHING = nullcontext()


class Waits:
    """The calls of one runtime that are made from inside a lease, or from inside another call."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[Crew, frozenset[int]]] = {}

    @property
    def held(self) -> frozenset[int]:
        """The claims of all who wait: their workers serve nobody meanwhile."""
        return frozenset[int]().union(*(claims for _, claims in self._waiting.values()))

    def of(self, crew: Crew, claims: frozenset[int]) -> AbstractContextManager[None]:
        """Wait for `crew`, inside the block, while holding `claims`.

        Raises:
            InfeasibleRequest: on entering: that would be for ever.
        """
        # Nearly every call comes from a task that holds nothing, and must not pay for this.
        return self._of(crew, claims) if claims else _NOTHING

    @contextmanager
    def _of(self, crew: Crew, claims: frozenset[int]) -> Iterator[None]:
        number = next(self._numbers)
        self._waiting[number] = (crew, claims)
        try:
            self._check(number)
            for who in {crew for crew, _ in self._waiting.values()}:
                who.lend_seats()
            yield
        finally:
            del self._waiting[number]

    def _check(self, number: int) -> None:
        crew, claims = self._waiting[number]
        if len(claims) > DEEPEST:
            raise InfeasibleRequest(
                f"{crew.tool.name}: {len(claims)} calls stand inside each other, and {DEEPEST}"
                " may; does a tool call itself without an end?"
            )
        waits = {key: Wait(held, who.serving) for key, (who, held) in self._waiting.items()}

        def could_open(key: int, staying: frozenset[int]) -> bool:
            who, held = self._waiting[key]
            return who.could_open(held, staying)

        if number in hopeless(waits, could_open):
            raise InfeasibleRequest(
                f"{crew.tool.name}: it would wait for itself: the call was made from inside"
                f" {crew.site.owners_of(claims)}, which holds what it needs and goes on only with"
                " its answer"
            )
