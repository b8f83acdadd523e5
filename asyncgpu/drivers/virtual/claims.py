"""Which torch storages are charged, and to whom, for as long as they live."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Claims", "Owner"]


class Owner(Protocol):
    """A memory, as the storages see it that are charged to it."""

    @property
    def device(self) -> int: ...

    def give_back(self, nbytes: int) -> None: ...


class Claims:
    """The charged storages of one driver.

    A storage is known by its Python object: torch keeps that for as long as the memory lives, even
    while only tensors refer to it. The owners credit what they took when it ends, in whatever
    thread or garbage collection that happens; until then, this keeps them alive.
    """

    def __init__(self) -> None:
        self._claims: dict[int, _Claim] = {}

    def __contains__(self, storage: object) -> bool:
        return id(storage) in self._claims

    def add(self, storage: Any, owner: Owner, nbytes: int) -> None:
        """Let `owner` have `nbytes` back at the end of `storage`.

        A storage may have several owners: who let it grow in another context pays for the growth.
        """
        claim = self._claims.get(id(storage))
        if claim is None:
            claim = self._claims[id(storage)] = _Claim(storage, self._end)
        claim.shares.append((owner, nbytes))

    def device_of(self, storage: object) -> int | None:
        """Return the device that `storage` is on; None: nobody is charged for it."""
        claim = self._claims.get(id(storage))
        return None if claim is None else claim.shares[0][0].device

    def _end(self, claim: _Claim) -> None:
        del self._claims[claim.key]
        for owner, nbytes in claim.shares:
            owner.give_back(nbytes)


class _Claim(weakref.ref[Any]):
    __slots__ = ("key", "shares")

    def __new__(cls, storage: Any, end: Callable[[Any], None]) -> _Claim:
        claim = super().__new__(cls, storage, end)
        claim.key = id(storage)
        claim.shares = []
        return claim

    # Declared for the type checker alone: the values live in the slots.
    key: int
    shares: list[tuple[Owner, int]]
