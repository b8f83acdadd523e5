"""`Share`: the way of one workforce to a result cache, for its runs and for its single calls.

What is small is packed and opened on the spot. What is large goes to a thread, in a task of the
runtime, and its seeker hears of it when that is done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Protocol, TypeVar

import anyio.to_thread

from ..promise import Promise, new_promise, resolve
from .answers import Answers, Seeker
from .launcher import Launcher
from .parcel import SMALL, Packer, Parcel, opened, unpack

__all__ = ["Share"]

S = TypeVar("S", bound="KeyedSeeker")

# Small answers may be many. Past this, the rest of them goes to a thread as well.
_PACKING_SECONDS = 0.005


class KeyedSeeker(Seeker, Protocol):
    """A seeker that knows what it seeks."""

    key: Hashable | None


class Share:
    """Seeks answers, and offers those that were found."""

    def __init__(self, answers: Answers, launcher: Launcher) -> None:
        self._answers = answers
        self._launcher = launcher
        self._packer = Packer(launcher.codecs)

    def seek(self, key: Hashable, seeker: Seeker) -> None:
        """Give `seeker` the answer if it is kept, else have it lead, or wait for whoever does."""
        parcel = self._answers.find(key)
        if parcel is not None:
            seeker.receive(parcel)
        elif self._answers.join(key, seeker):
            seeker.lead()

    def leave(self, key: Hashable, seeker: Seeker) -> None:
        """Seek no more. Idempotent."""
        self._answers.leave(key, seeker)

    def open(self, parcel: Parcel, then: Callable[[Any], None]) -> None:
        """Call `then` with a copy of the value: now, or of a large one when it is there."""
        if parcel.nbytes <= SMALL:
            then(unpack(parcel))
        else:
            self._launcher.start_soon(self._open_later, parcel, then)

    async def _open_later(self, parcel: Parcel, then: Callable[[Any], None]) -> None:
        then(await opened(parcel))

    def offer(
        self, found: Sequence[tuple[S, Any]], then: Callable[[Sequence[tuple[S, Any]]], None]
    ) -> None:
        """Keep what these seekers have found, and call `then` with it, at once or in parts.

        Until `then` has an answer nobody may have it, because he might change it.
        """
        until = self._launcher.clock() + _PACKING_SECONDS
        packed, rest = [], []
        for seeker, value in found:
            if seeker.key is None:
                packed.append((seeker, value))
                continue
            late = self._launcher.clock() >= until
            parcel = None if late else self._packer.pack_small(value)
            if parcel is None:
                rest.append((seeker, value))
            else:
                self._answers.keep(seeker.key, seeker, parcel)
                packed.append((seeker, value))
        if packed:
            then(packed)
        if rest:
            self._launcher.start_soon(self._offer_later, rest, then)

    async def _offer_later(
        self, found: list[tuple[S, Any]], then: Callable[[Sequence[tuple[S, Any]]], None]
    ) -> None:
        for seeker, value in found:
            parcel = await anyio.to_thread.run_sync(self._packer.pack, value)
            assert seeker.key is not None
            self._answers.keep(seeker.key, seeker, parcel)
            then([(seeker, value)])

    async def answer(self, key: Hashable, compute: Callable[[], Awaitable[Any]]) -> Any:
        """Return the answer for `key`, computed here unless it is kept or being computed.

        Raises:
            Exception: what `compute` raises.
        """
        caller = _Caller(key)
        try:
            self.seek(key, caller)
            parcel = await caller.outcome
            if parcel is not None:
                return await opened(parcel)
            value = await compute()
            parcel = self._packer.pack_small(value)
            if parcel is None:
                parcel = await anyio.to_thread.run_sync(self._packer.pack, value)
            self._answers.keep(key, caller, parcel)
            return value
        finally:
            self._answers.leave(key, caller)


class _Caller:
    """A single call that seeks its answer; its outcome is a parcel, or None: it leads."""

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.outcome: Promise[Parcel | None] = new_promise()

    def lead(self) -> None:
        resolve(self.outcome, None)

    def receive(self, parcel: Parcel) -> None:
        resolve(self.outcome, parcel)
