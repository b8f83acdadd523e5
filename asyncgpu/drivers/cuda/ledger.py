"""`NativeLedger`: a device's budget, asked by torch's allocator itself. See `MemoryLedger`."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable

from ...errors import DeviceError, InvalidTransition
from ...ports import AccountReading, Refusal
from .library import ACCOUNTS, LEDGERS, BudgetLibrary

__all__ = ["NativeLedger"]

# What `budget.c` answers.
_REFUSED, _UNKNOWN, _TABLE_FULL = 0, -1, -2

# No device has as much; greater numbers would wrap in C.
_ENDLESS = 1 << 62


class NativeLedger:
    """The rule of `policy.budget`, carried out by `budget.c`."""

    def __init__(self, library: BudgetLibrary, capacity: int) -> None:
        """Share out `capacity` bytes.

        Raises:
            DeviceError: the process has too many ledgers.
        """
        place = library.open_ledger(capacity)
        if place == _TABLE_FULL:
            raise DeviceError(f"this process has {LEDGERS} memory ledgers already: close a runtime")
        self.library = library
        self._place = place
        self._ledger = library.ledgers[place]
        # Its accounts may outlive it: live tensors stay charged.
        self._closing = weakref.finalize(self, library.close_ledger, place)
        self._closing.atexit = False

    @property
    def available(self) -> int:
        return max(0, int(self._ledger.capacity - self._ledger.committed))

    @property
    def committed(self) -> int:
        return int(self._ledger.committed)

    @property
    def used(self) -> int:
        return int(self._ledger.used)

    def set_capacity(self, nbytes: int) -> None:
        self.library.set_capacity(self._place, _fitting(nbytes))

    # ----------------------------------------------------------------- accounts and groups

    def open_group(self, limit: int) -> int:
        number = int(self.library.open_group(_fitting(limit)))
        if number == _TABLE_FULL:
            raise _table_full("memory groups")
        return number

    def close_group(self, group: int) -> None:
        _known(group, self.library.close_group(group))

    def open(
        self, *, cap: int | None = None, reserved: int = 0, group: int | None = None
    ) -> int | None:
        number = int(self.library.open(self._place, _cap(cap), _fitting(reserved), group or 0))
        if number == _TABLE_FULL:
            raise _table_full("memory accounts")
        return None if number == _REFUSED else number

    def close(self, account: int) -> None:
        _known(account, self.library.close(account))

    def hold(self, account: int) -> None:
        """Keep an account's functions its own, until `let_go`, even when it is gone."""
        _known(account, self.library.hold(account, 1))

    def let_go(self, account: int) -> None:
        """End one `hold`."""
        _known(account, self.library.hold(account, -1))

    # --------------------------------------------------------------------------- charging

    def charge(self, account: int, nbytes: int) -> bool:
        return _known(account, self.library.charge(account, _fitting(nbytes))) != _REFUSED

    def credit(self, account: int, nbytes: int) -> None:
        if _known(account, self.library.credit(account, _fitting(nbytes))) == _REFUSED:
            raise InvalidTransition("budget", self.read(account), f"credit {nbytes}")

    def set_cap(self, account: int, cap: int | None) -> None:
        _known(account, self.library.set_cap(account, _cap(cap)))

    def reserve(self, account: int, nbytes: int) -> bool:
        return _known(account, self.library.reserve(account, _fitting(nbytes))) != _REFUSED

    def headroom(self, account: int) -> int:
        return _known(account, self.library.headroom(account))

    # ---------------------------------------------------------------------------- reading

    def read(self, account: int) -> AccountReading | None:
        entry = self.library.accounts[account % ACCOUNTS]
        cap = None if entry.cap < 0 else entry.cap
        reading = AccountReading(cap, entry.reserved, entry.used, entry.peak)
        # Looked at last: if it is this account's now, so was all that was read.
        return reading if entry.number == account else None

    def gauge(self, account: int) -> Callable[[], int]:
        """Return what reads the use of one account, faster than `read`."""
        entry = self.library.accounts[account % ACCOUNTS]
        return lambda: entry.used if entry.number == account else 0

    def refusal(self, account: int) -> Refusal | None:
        numbers = (ctypes.c_int64 * 3)()
        if self.library.refusal(account, numbers) in (_REFUSED, _UNKNOWN):
            return None
        requested, available, by_device = numbers
        return Refusal(requested, available, bool(by_device))


def _fitting(nbytes: int) -> int:
    return min(nbytes, _ENDLESS)


def _cap(cap: int | None) -> int:
    return -1 if cap is None else _fitting(cap)


def _known(number: int, answer: int) -> int:
    if answer == _UNKNOWN:
        raise InvalidTransition("budget", "no such account", number)
    return answer


def _table_full(what: str) -> DeviceError:
    return DeviceError(
        f"this process has {ACCOUNTS} {what} already: close contexts, and drop their tensors"
    )
