"""May this allocate? One device's memory, shared out among accounts. All sizes are bytes.

An account *commits* what it uses or what is reserved for it, whichever is more. Two rules decide
everything:

* an account uses at most its cap;
* the commitments of a group's accounts together are at most the group's limit, and those of all
  accounts at most the capacity.

So what is reserved for one account can never be taken by another, and what is used above a
reservation, the burst, is first come, first served. A growing account only asks for new room once
it has used up its reservation. `drivers/cuda/budget.c` carries out the same two rules where torch
allocates; a test holds the two against each other.
"""

from __future__ import annotations

from ..errors import InvalidTransition

__all__ = ["Account", "Budget", "Denial"]

# What an account without a cap may use by itself: more than any device has, so that a refusal of
# it is always the device's.
_ENDLESS = 1 << 62


class Account:
    """One user of the device.

    Attributes:
        cap: the most it may use; None: no cap of its own.
        reserved: what is set aside for it.
        used: what it is charged for.
        peak: the most it was charged for at once.
        group: the number of its group; None: in none.
        closed: whether it takes no more charges.
        denial: why it was last refused.
    """

    __slots__ = ("cap", "closed", "denial", "group", "peak", "reserved", "used")

    def __init__(self, cap: int | None, reserved: int, group: int | None) -> None:
        self.cap = cap
        self.reserved = reserved
        self.used = 0
        self.peak = 0
        self.group = group
        self.closed = False
        self.denial: Denial | None = None

    @property
    def commitment(self) -> int:
        """What nobody else can have."""
        return max(self.used, self.reserved)


class Denial:
    """Why a charge was refused.

    Attributes:
        requested: what was asked for.
        available: what the account could have had.
        by_device: the device was full or promised to others; else its own cap, or its group's.
    """

    __slots__ = ("available", "by_device", "requested")

    def __init__(self, requested: int, available: int, by_device: bool) -> None:
        self.requested = requested
        self.available = available
        self.by_device = by_device


class _Group:
    __slots__ = ("committed", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.committed = 0


class Budget:
    """The accounts of one device. Every method costs the same however many there are.

    All but `account` raise `InvalidTransition` for a number that is not, or no longer, known.
    """

    def __init__(self, capacity: int) -> None:
        """Share out `capacity` bytes."""
        self.capacity = capacity
        self.committed = 0
        """The sum of all commitments; over the capacity only where that was lowered."""
        self.used = 0
        """The sum of what all accounts use."""
        self._accounts: dict[int, Account] = {}
        self._groups: dict[int, _Group] = {}
        self._next = 0

    @property
    def available(self) -> int:
        """What a new account could reserve now."""
        return max(0, self.capacity - self.committed)

    def account(self, number: int) -> Account | None:
        """Return an account, to read; None: it is gone, closed and using nothing."""
        return self._accounts.get(number)

    # ----------------------------------------------------------------- accounts and groups

    def open(
        self, *, cap: int | None = None, reserved: int = 0, group: int | None = None
    ) -> int | None:
        """Return the number of a new account; None: there is no room for `reserved`."""
        account = Account(cap, 0, group)
        if reserved > self._unclaimed(account):
            return None
        number = self._new_number()
        self._accounts[number] = account
        self._reserved(account, reserved)
        return number

    def close(self, number: int) -> None:
        """End its reservation, and refuse its charges; it is gone once it uses nothing."""
        account = self._known(number)
        self._reserved(account, 0)
        account.closed = True
        self._forget_if_gone(number, account)

    def open_group(self, limit: int) -> int:
        """Return the number of a new group, whose accounts commit at most `limit` together."""
        number = self._new_number()
        self._groups[number] = _Group(limit)
        return number

    def close_group(self, number: int) -> None:
        """Forget a group. Accounts that are closed and still use something may be in it."""
        del self._groups[number]

    # --------------------------------------------------------------------------- charging

    def charge(self, number: int, nbytes: int) -> bool:
        """Let an account use `nbytes` more; False: refused, see its `denial`."""
        account = self._known(number)
        own, shared = self._own_room(account), self._shared_room(account)
        if nbytes > min(own, shared):
            # Asked for more than both: its own limit is what the caller can act on.
            by_device = nbytes <= own
            account.denial = Denial(nbytes, max(0, min(own, shared)), by_device)
            return False
        self._use(account, nbytes)
        account.peak = max(account.peak, account.used)
        return True

    def credit(self, number: int, nbytes: int) -> None:
        """Take back what was charged.

        Raises:
            InvalidTransition: more than that; nothing has changed.
        """
        account = self._known(number)
        if nbytes > account.used:
            raise InvalidTransition("budget", f"{account.used} bytes used", f"credit {nbytes}")
        self._use(account, -nbytes)
        self._forget_if_gone(number, account)

    def headroom(self, number: int) -> int:
        """Return what an account could be charged now."""
        account = self._known(number)
        return max(0, min(self._own_room(account), self._shared_room(account)))

    # ----------------------------------------------------------------------------- limits

    def set_cap(self, number: int, cap: int | None) -> None:
        """Change its cap; what it uses above that stays."""
        self._known(number).cap = cap

    def reserve(self, number: int, nbytes: int) -> bool:
        """Change what is reserved for it to `nbytes`; False: no room for more, or it is closed."""
        account = self._known(number)
        grows = max(account.used, nbytes) - account.commitment
        if nbytes > account.reserved and (account.closed or grows > self._unclaimed(account)):
            return False
        self._reserved(account, nbytes)
        return True

    # ---------------------------------------------------------------------------- details

    def _known(self, number: int) -> Account:
        try:
            return self._accounts[number]
        except KeyError:
            raise InvalidTransition("budget", "no such account", number) from None

    def _new_number(self) -> int:
        self._next += 1
        return self._next

    def _group_of(self, account: Account) -> _Group | None:
        return None if account.group is None else self._groups.get(account.group)

    def _unclaimed(self, account: Account) -> int:
        """What its commitment could grow by."""
        group = self._group_of(account)
        if group is None:
            return self.available
        return max(0, min(self.available, group.limit - group.committed))

    def _own_room(self, account: Account) -> int:
        """What its cap and its group leave."""
        if account.closed:
            return 0
        room = _ENDLESS if account.cap is None else account.cap - account.used
        group = self._group_of(account)
        if group is None:
            return room
        return min(room, max(0, group.limit - group.committed) + account.commitment - account.used)

    def _shared_room(self, account: Account) -> int:
        """What is left of its reservation, and of what nobody has reserved."""
        return self.available + account.commitment - account.used

    def _use(self, account: Account, nbytes: int) -> None:
        before = account.commitment
        account.used += nbytes
        self.used += nbytes
        self._committed(account, before)

    def _reserved(self, account: Account, nbytes: int) -> None:
        before = account.commitment
        account.reserved = nbytes
        self._committed(account, before)

    def _committed(self, account: Account, before: int) -> None:
        change = account.commitment - before
        self.committed += change
        group = self._group_of(account)
        if group is not None:
            group.committed += change

    def _forget_if_gone(self, number: int, account: Account) -> None:
        if account.closed and account.used == 0:
            del self._accounts[number]

    def check_invariants(self) -> None:
        """Raise `AssertionError` if a sum or a rule does not hold. For tests."""
        accounts = self._accounts.values()
        assert self.committed == sum(account.commitment for account in accounts)
        assert self.used == sum(account.used for account in accounts)
        for number, group in self._groups.items():
            assert group.committed == sum(a.commitment for a in accounts if a.group == number)
        assert all(0 <= account.used <= account.peak for account in accounts)
