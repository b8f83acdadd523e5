"""`LockedLedger`: the budget of one device, for any thread. See `MemoryLedger`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..policy.budget import Budget
from ..ports import AccountReading, Refusal

__all__ = ["LockedLedger"]


class LockedLedger:
    """Asks `policy.budget` under a lock.

    A garbage collection may run a finaliser in the very thread that holds the lock. So a credit
    never waits: it is put down, and entered by whoever has the lock. A charge from there is
    refused, because in the middle of a decision there is nothing that another could rest on; and
    whoever reads there sees the numbers as they stand.
    """

    def __init__(self, capacity: int) -> None:
        """Share out `capacity` bytes."""
        self._budget = Budget(capacity)
        # Held for moments only: no callback runs and nothing waits under it. Reentrant, for
        # finalisers; `_holder` tells them that they have interrupted a decision.
        self._lock = threading.RLock()
        self._holder: int | None = None
        self._credits: deque[tuple[int, int]] = deque()
        self._on_credit: Callable[[], object] | None = None

    def on_credit(self, callback: Callable[[], object] | None) -> None:
        """Call `callback` after credits, in whatever thread; quick and never raising. None: no."""
        self._on_credit = callback

    @property
    def available(self) -> int:
        with self._entered() as budget:
            return budget.available

    @property
    def committed(self) -> int:
        with self._entered() as budget:
            return budget.committed

    @property
    def used(self) -> int:
        with self._entered() as budget:
            return budget.used

    def set_capacity(self, nbytes: int) -> None:
        with self._entered() as budget:
            budget.capacity = nbytes

    def open_group(self, limit: int) -> int:
        with self._entered() as budget:
            return budget.open_group(limit)

    def close_group(self, group: int) -> None:
        with self._entered() as budget:
            budget.close_group(group)

    def open(
        self, *, cap: int | None = None, reserved: int = 0, group: int | None = None
    ) -> int | None:
        with self._entered() as budget:
            return budget.open(cap=cap, reserved=reserved, group=group)

    def close(self, account: int) -> None:
        with self._entered() as budget:
            budget.close(account)

    def charge(self, account: int, nbytes: int) -> bool:
        if self._interrupted():
            return False
        with self._entered() as budget:
            return budget.charge(account, nbytes)

    def credit(self, account: int, nbytes: int) -> None:
        self._credits.append((account, nbytes))
        self._enter_credits()

    def set_cap(self, account: int, cap: int | None) -> None:
        with self._entered() as budget:
            budget.set_cap(account, cap)

    def reserve(self, account: int, nbytes: int) -> bool:
        with self._entered() as budget:
            return budget.reserve(account, nbytes)

    def headroom(self, account: int) -> int:
        with self._entered() as budget:
            return budget.headroom(account)

    def read(self, account: int) -> AccountReading | None:
        with self._entered() as budget:
            found = budget.account(account)
            if found is None:
                return None
            return AccountReading(found.cap, found.reserved, found.used, found.peak)

    def refusal(self, account: int) -> Refusal | None:
        with self._entered() as budget:
            found = budget.account(account)
            if found is None or found.denial is None:
                return None
            return Refusal(found.denial.requested, found.denial.available, found.denial.by_device)

    def check_invariants(self) -> None:
        """Raise `AssertionError` if a sum or a rule does not hold. For tests."""
        with self._entered() as budget:
            budget.check_invariants()

    @contextmanager
    def _entered(self) -> Iterator[Budget]:
        if self._interrupted():
            yield self._budget
            return
        credited = False
        try:
            with self._lock, self._held():
                credited = self._drain()
                yield self._budget
        finally:
            # What was put down meanwhile found the lock taken.
            self._enter_credits()
            if credited and self._on_credit is not None:
                self._on_credit()

    def _enter_credits(self) -> None:
        while self._credits and not self._interrupted() and self._lock.acquire(blocking=False):
            try:
                with self._held():
                    credited = self._drain()
            finally:
                self._lock.release()
            if credited and self._on_credit is not None:
                self._on_credit()

    def _interrupted(self) -> bool:
        """Whether this is a finaliser that has come in the middle of a decision of its thread."""
        return self._holder == threading.get_ident()

    @contextmanager
    def _held(self) -> Iterator[None]:
        self._holder = threading.get_ident()
        try:
            yield
        finally:
            self._holder = None

    def _drain(self) -> bool:
        drained = bool(self._credits)
        while self._credits:
            self._budget.credit(*self._credits.popleft())
        return drained
