"""`budget.c` carries out the rule of `policy.budget`, and its sums hold among threads."""

from __future__ import annotations

import gc
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncgpu.drivers.cuda.ledger import NativeLedger
from asyncgpu.drivers.cuda.library import ACCOUNTS, LEDGERS
from asyncgpu.errors import DeviceError, InvalidTransition
from asyncgpu.policy.budget import Budget
from asyncgpu.ports import Refusal

from .native_budget import Functions


@pytest.fixture
def library(native):
    return native[0]


@pytest.fixture
def device(native):
    device = native[1]
    before = device.free
    yield device
    device.set_free(before)


# ------------------------------------------------------------------ against the pure rule


class Both:
    """The same operations on the pure rule and on the library, compared after each."""

    def __init__(self, library, capacity):
        self.library = library
        self.pure, self.native = Budget(capacity), NativeLedger(library, capacity)
        self.accounts, self.groups = [], []

    def open(self, cap, reserved, group):
        pair = self.groups[group % len(self.groups)] if group is not None and self.groups else None
        pure = self.pure.open(cap=cap, reserved=reserved, group=pair and pair[0])
        native = self.native.open(cap=cap, reserved=reserved, group=pair and pair[1])
        assert (pure is None) == (native is None)
        if pure is not None:
            self.accounts.append((pure, native))

    def open_group(self, limit):
        self.groups.append((self.pure.open_group(limit), self.native.open_group(limit)))

    def close_group(self, which):
        if self.groups:
            pure, native = self.groups.pop(which % len(self.groups))
            self.pure.close_group(pure)
            self.native.close_group(native)

    def set_capacity(self, capacity):
        self.pure.capacity = capacity
        self.native.set_capacity(capacity)

    def on_account(self, which, name, *arguments):
        if self.accounts:
            pure, native = self.accounts[which % len(self.accounts)]
            answers = [
                _outcome(getattr(ledger, name), number, *arguments)
                for ledger, number in ((self.pure, pure), (self.native, native))
            ]
            assert answers[0] == answers[1]

    def allocate(self, which, nbytes):
        if self.accounts:
            pure, native = self.accounts[which % len(self.accounts)]
            charged = _outcome(self.pure.charge, pure, nbytes) is True
            memory = Functions(self.library, native).allocate(nbytes)
            assert (memory is not None) == charged
            if memory is not None:
                Functions(self.library, native).release(memory, nbytes)
                self.pure.credit(pure, nbytes)

    def compare(self):
        self.pure.check_invariants()
        assert self.native.available == self.pure.available
        assert self.native.used == self.pure.used
        assert self.native.committed == self.pure.committed
        for pure, native in self.accounts:
            account, reading = self.pure.account(pure), self.native.read(native)
            assert (account is None) == (reading is None)
            if account is None:
                assert self.native.refusal(native) is None
                continue
            assert reading == (account.cap, account.reserved, account.used, account.peak)
            assert self.native.headroom(native) == self.pure.headroom(pure)
            denial = account.denial
            expected = denial and (denial.requested, denial.available, denial.by_device)
            assert self.native.refusal(native) == expected

    def end(self):
        for _, native in self.accounts:
            reading = self.native.read(native)
            if reading is not None:
                self.native.credit(native, reading.used)
                if self.native.read(native) is not None:
                    self.native.close(native)
        for _, native in self.groups:
            self.native.close_group(native)


def _outcome(call, *arguments):
    try:
        return call(*arguments)
    except InvalidTransition:
        return InvalidTransition


SIZE = st.integers(0, 120)
CAP = st.none() | SIZE
WHICH = st.integers(0, 9)
OPERATIONS = st.one_of(
    st.tuples(st.just("open"), CAP, SIZE, st.none() | WHICH),
    st.tuples(st.just("open_group"), SIZE),
    st.tuples(st.just("close_group"), WHICH),
    st.tuples(st.just("set_capacity"), SIZE),
    st.tuples(st.just("allocate"), WHICH, SIZE),
    st.tuples(st.just("on_account"), WHICH, st.sampled_from(["charge", "credit", "reserve"]), SIZE),
    st.tuples(st.just("on_account"), WHICH, st.just("set_cap"), CAP),
    st.tuples(st.just("on_account"), WHICH, st.just("close")),
)


@settings(deadline=None, max_examples=150)
@given(capacity=SIZE, operations=st.lists(OPERATIONS, max_size=40))
def test_the_library_decides_as_the_pure_rule_does(native, capacity, operations):
    both = Both(native[0], capacity)
    try:
        for name, *arguments in operations:
            getattr(both, name)(*arguments)
            both.compare()
    finally:
        both.end()


# ------------------------------------------------------------------------ where torch allocates


def test_an_allocation_is_charged_until_it_is_released(library, device):
    ledger = NativeLedger(library, 100)
    account = ledger.open(cap=60)
    functions = Functions(library, account)
    mallocs, frees = device.mallocs, device.frees
    memory = functions.allocate(40)
    assert ledger.read(account).used == 40
    assert functions.allocate(40) is None
    assert ledger.refusal(account) == Refusal(40, 20, by_device=False)
    assert device.mallocs == mallocs + 1
    functions.release(memory, 40)
    assert ledger.read(account).used == ledger.used == 0
    assert device.frees == frees + 1
    ledger.close(account)


def test_a_full_device_is_remembered_and_its_error_is_taken_away(library, device):
    """torch would find CUDA's error at its next call, and take it for a failure of that."""
    ledger = NativeLedger(library, 100)
    account = ledger.open()
    device.set_free(30)
    assert Functions(library, account).allocate(40) is None
    assert ledger.refusal(account) == Refusal(40, 30, by_device=True)
    assert ledger.read(account).used == 0
    assert device.error == 0
    ledger.close(account)


def test_an_account_without_a_number_gets_nothing(library, device):
    ledger = NativeLedger(library, 100)
    account = ledger.open()
    ledger.close(account)
    assert Functions(library, account).allocate(1) is None


def test_memory_released_after_the_close_frees_the_place(library, device):
    ledger = NativeLedger(library, 100)
    account = ledger.open()
    functions = Functions(library, account)
    memory = functions.allocate(70)
    ledger.close(account)
    assert functions.allocate(1) is None
    assert ledger.available == 30
    functions.release(memory, 70)
    assert ledger.available == 100
    assert ledger.read(account) is None


# ----------------------------------------------------------------------------------- threads


def allocate_and_release(functions, turns):
    """Yield for each refusal; hold one to five segments meanwhile."""
    held = []
    for turn in range(turns):
        memory = functions.allocate(40)
        if memory is None:
            yield turn
        else:
            held.append(memory)
        if memory is None or len(held) > turn % 5:
            while held:
                functions.release(held.pop(), 40)
    while held:
        functions.release(held.pop(), 40)


def test_the_sums_hold_among_eight_threads(library, device):
    """Neighbours allocate until refused, all the time, and a reservation is always to be had."""
    ledger = NativeLedger(library, 1000)
    group = ledger.open_group(500)
    reserving = ledger.open(cap=200, reserved=200)
    greedy = [ledger.open(cap=None if i % 2 else 300, group=group) for i in range(7)]
    # Leaves room for four segments: who wants a fifth is refused, even with nobody beside him.
    tenant = ledger.open(group=group)
    assert ledger.charge(tenant, 340)
    accounts = (reserving, *greedy)
    mallocs, frees = device.mallocs, device.frees
    refused = {}

    def run(account):
        refused[account] = len(list(allocate_and_release(Functions(library, account), 3000)))

    threads = [threading.Thread(target=run, args=(account,)) for account in accounts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused.pop(reserving) == 0
    assert len(refused) == 7
    assert all(refused.values())
    ledger.credit(tenant, 340)
    ledger.close(tenant)
    assert (ledger.used, ledger.available) == (0, 800)
    assert ledger.read(reserving).peak <= 200
    assert all(ledger.read(account).peak <= 500 for account in greedy)
    for account in accounts:
        ledger.close(account)
    ledger.close_group(group)
    assert ledger.available == 1000
    assert device.mallocs - mallocs == device.frees - frees > 0


# -------------------------------------------------------------------------------- the tables


def test_no_more_accounts_than_functions(library):
    ledger = NativeLedger(library, 100)
    accounts = [ledger.open() for _ in range(ACCOUNTS)]
    assert len({library.functions(account) for account in accounts}) == ACCOUNTS
    with pytest.raises(DeviceError, match=f"{ACCOUNTS} memory accounts"):
        ledger.open()
    ledger.charge(accounts[0], 10)
    for account in accounts:
        ledger.close(account)
    again = [ledger.open() for _ in range(ACCOUNTS - 1)]
    assert library.functions(accounts[0]) not in {library.functions(account) for account in again}
    assert not set(again) & set(accounts)
    ledger.credit(accounts[0], 10)
    assert library.functions(ledger.open()) == library.functions(accounts[0])
    for place in library.accounts:
        if place.number:
            ledger.close(place.number)


def test_a_held_account_keeps_its_functions(library):
    ledger = NativeLedger(library, 100)
    account = ledger.open()
    ledger.hold(account)
    ledger.close(account)
    assert library.accounts[account % ACCOUNTS].number == account
    ledger.let_go(account)
    assert ledger.read(account) is None


def test_a_ledgers_place_is_used_again_when_nothing_is_charged_to_it(library):
    gc.collect()
    ledgers = [NativeLedger(library, 100) for _ in range(LEDGERS)]
    with pytest.raises(DeviceError, match="close a runtime"):
        NativeLedger(library, 100)
    account = ledgers[0].open()
    ledgers[0].charge(account, 10)
    ledgers[0].close(account)
    del ledgers[0]
    with pytest.raises(DeviceError):
        NativeLedger(library, 100)
    library.credit(account, 10)
    assert NativeLedger(library, 7).available == 7


def test_groups_run_out_too(library):
    ledger = NativeLedger(library, 100)
    groups = [ledger.open_group(10) for _ in range(ACCOUNTS)]
    with pytest.raises(DeviceError, match="memory groups"):
        ledger.open_group(10)
    for group in groups:
        ledger.close_group(group)
    with pytest.raises(InvalidTransition):
        ledger.close_group(groups[0])


def test_what_is_over_is_named(library):
    ledger = NativeLedger(library, 100)
    account = ledger.open()
    with pytest.raises(InvalidTransition, match="credit 1"):
        ledger.credit(account, 1)
    ledger.close(account)
    with pytest.raises(InvalidTransition, match="no such account"):
        ledger.charge(account, 1)
    assert ledger.refusal(account) is None


def test_a_size_that_does_not_fit_in_c_does_not_wrap(library):
    ledger = NativeLedger(library, 100)
    account = ledger.open(cap=1 << 70)
    assert not ledger.charge(account, 1 << 64)
    assert not ledger.reserve(account, 1 << 64)
    ledger.close(account)
