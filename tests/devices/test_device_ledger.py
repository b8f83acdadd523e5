"""`LockedLedger`: the budget of one device, for any thread and for finalisers."""

from __future__ import annotations

import gc
import random
import threading

import pytest

from asyncgpu.devices.ledger import LockedLedger
from asyncgpu.policy.budget import Budget


def test_it_reads_as_the_budget_decides():
    ledger = LockedLedger(1000)
    account = ledger.open(cap=500, reserved=200)
    assert ledger.charge(account, 300)
    assert not ledger.charge(account, 300)
    assert ledger.read(account) == (500, 200, 300, 300)
    assert ledger.refusal(account) == (300, 200, False)
    assert (ledger.available, ledger.committed, ledger.used) == (700, 300, 300)
    assert ledger.headroom(account) == 200
    ledger.close(account)
    ledger.credit(account, 300)
    assert ledger.read(account) is None
    assert ledger.refusal(account) is None
    assert ledger.available == 1000


def test_many_threads_leave_nothing_behind():
    ledger = LockedLedger(100_000)
    accounts = [ledger.open(cap=60_000) for _ in range(3)]
    over = []

    def work(seed):
        dice = random.Random(seed)
        held = []
        for _ in range(2000):
            account, nbytes = dice.choice(accounts), dice.randrange(1, 3000)
            if dice.random() < 0.5 and ledger.charge(account, nbytes):
                held.append((account, nbytes))
            elif held:
                ledger.credit(*held.pop())
            if ledger.committed > 100_000:
                over.append(ledger.committed)
        for account, nbytes in held:
            ledger.credit(account, nbytes)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert over == []
    assert ledger.used == 0
    ledger.check_invariants()


class Tensor:
    """Credits its memory when it is collected, and only the cycle collector finds it."""

    def __init__(self, ledger, account):
        self.itself = self
        self.ledger, self.account = ledger, account

    def __del__(self):
        self.ledger.credit(self.account, 10)


def test_a_finaliser_in_the_thread_that_holds_the_lock_does_not_deadlock(monkeypatch):
    ledger = LockedLedger(1000)
    account = ledger.open()
    ledger.charge(account, 30)
    decide = Budget.charge

    def collect_and_decide(self, *args):
        Tensor(ledger, account)
        gc.collect()
        return decide(self, *args)

    monkeypatch.setattr(Budget, "charge", collect_and_decide)
    thread = threading.Thread(target=ledger.charge, args=(account, 5), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "the finaliser waits for the lock that its own thread holds"
    assert ledger.used == 25


class Greedy(Tensor):
    """Allocates when it is collected."""

    def __del__(self):
        self.charged = self.ledger.charge(self.account, 10)
        verdicts.append(self.charged)


verdicts = []


def test_a_finaliser_that_allocates_in_the_middle_of_a_decision_is_refused(monkeypatch):
    ledger = LockedLedger(1000)
    account = ledger.open()
    decide = Budget.charge

    def collect_and_decide(self, *args):
        Greedy(ledger, account)
        gc.collect()
        return decide(self, *args)

    monkeypatch.setattr(Budget, "charge", collect_and_decide)
    thread = threading.Thread(target=ledger.charge, args=(account, 5), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "the finaliser waits for the lock that its own thread holds"
    assert verdicts == [False]
    monkeypatch.undo()
    assert ledger.charge(account, 5)
    assert ledger.used == 10


def test_credits_are_told_to_whoever_waits():
    ledger = LockedLedger(1000)
    account = ledger.open()
    ledger.charge(account, 30)
    told = []
    ledger.on_credit(lambda: told.append(ledger.used))
    ledger.credit(account, 10)
    assert told == [20]
    ledger.on_credit(None)
    ledger.credit(account, 10)
    assert told == [20]


@pytest.mark.parametrize("fails", ["charge", "credit"])
def test_an_impossible_order_leaves_the_ledger_usable(fails):
    ledger = LockedLedger(1000)
    account = ledger.open()
    with pytest.raises(Exception, match="impossible"):
        getattr(ledger, fails)(99, 10)
    assert ledger.charge(account, 10)


def test_a_finaliser_that_reads_in_the_middle_of_a_decision_gets_an_answer(monkeypatch):
    """It may be anybody's: a model's, that logs what its context uses."""
    ledger = LockedLedger(1000)
    account = ledger.open(cap=500)
    decide, seen = Budget.charge, []

    class Curious(Tensor):
        def __del__(self):
            seen.append((self.ledger.used, self.ledger.available, self.ledger.headroom(account)))

    def collect_and_decide(self, *args):
        Curious(ledger, account)
        gc.collect()
        return decide(self, *args)

    monkeypatch.setattr(Budget, "charge", collect_and_decide)
    thread = threading.Thread(target=ledger.charge, args=(account, 5), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "the finaliser waits for the lock that its own thread holds"
    assert seen == [(0, 1000, 500)]
    assert ledger.used == 5
