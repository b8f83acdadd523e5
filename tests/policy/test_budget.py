"""The budget of one device: who may allocate what."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asyncgpu.errors import InvalidTransition
from asyncgpu.policy.budget import Budget

CAPACITY = 1000


@pytest.fixture
def budget():
    return Budget(CAPACITY)


def denial(budget, account):
    found = budget.account(account).denial
    return found and (found.requested, found.available, found.by_device)


def test_e1_a_cap_of_1000_takes_400_twice_and_refuses_300():
    budget = Budget(8000)
    account = budget.open(cap=1000)
    assert [budget.charge(account, n) for n in (400, 400, 300)] == [True, True, False]
    assert budget.account(account).used == 800
    assert denial(budget, account) == (300, 200, False)


def test_exactly_the_cap_is_allowed(budget):
    account = budget.open(cap=600)
    assert budget.charge(account, 600)
    assert budget.headroom(account) == 0


def test_e5_accounts_without_a_cap_share_the_device(budget):
    a, b = budget.open(), budget.open()
    assert budget.charge(a, 300)
    assert budget.charge(b, 200)
    assert budget.available == 500
    assert not budget.charge(a, 501)
    assert denial(budget, a) == (501, 500, True)


def test_what_is_reserved_for_one_is_nobody_elses(budget):
    guaranteed = budget.open(cap=700, reserved=700)
    burst = budget.open()
    assert not budget.charge(burst, 301)
    assert budget.charge(burst, 300)
    assert budget.charge(guaranteed, 700)


def test_use_within_a_reservation_takes_nothing_from_the_rest(budget):
    account = budget.open(reserved=400)
    assert budget.available == 600
    assert budget.charge(account, 400)
    assert budget.available == 600
    assert budget.charge(account, 100)
    assert budget.available == 500


def test_a_refusal_by_both_limits_names_the_accounts_own(budget):
    account = budget.open(cap=500)
    budget.open(reserved=800)
    assert not budget.charge(account, 600)
    assert denial(budget, account) == (600, 200, False)


def test_a_refusal_by_the_device_alone_names_the_device(budget):
    account = budget.open(cap=500)
    budget.open(reserved=800)
    assert not budget.charge(account, 400)
    assert denial(budget, account) == (400, 200, True)


def test_there_is_no_account_for_a_reservation_without_room(budget):
    assert budget.open(reserved=600) is not None
    assert budget.open(reserved=401) is None
    assert budget.open(reserved=400) is not None


def test_use_above_reservations_stands_in_the_way_of_new_ones(budget):
    account = budget.open()
    budget.charge(account, 700)
    assert budget.open(reserved=301) is None
    budget.credit(account, 100)
    assert budget.open(reserved=301) is not None


def test_a_reservation_grows_over_what_is_used_already(budget):
    account = budget.open()
    budget.charge(account, 500)
    budget.open(reserved=400)
    assert budget.reserve(account, 600)
    assert not budget.reserve(account, 601)
    assert budget.reserve(account, 0)
    assert budget.available == 100


def test_a_closed_account_stays_charged_until_what_it_uses_is_credited(budget):
    account = budget.open(reserved=300)
    budget.charge(account, 100)
    budget.close(account)
    assert budget.available == 900
    assert not budget.charge(account, 1)
    budget.credit(account, 100)
    assert budget.available == CAPACITY
    assert budget.account(account) is None


def test_nothing_is_reserved_for_a_closed_account(budget):
    account = budget.open(reserved=300)
    budget.charge(account, 100)
    budget.close(account)
    assert not budget.reserve(account, 300)
    assert budget.available == 900
    budget.credit(account, 100)
    assert budget.available == CAPACITY


def test_an_unused_account_is_gone_when_it_is_closed(budget):
    account = budget.open(reserved=300)
    budget.close(account)
    assert budget.account(account) is None
    with pytest.raises(InvalidTransition):
        budget.charge(account, 1)


def test_no_number_is_used_twice(budget):
    first = budget.open()
    budget.close(first)
    assert budget.open() != first


def test_crediting_more_than_is_used_is_impossible(budget):
    account = budget.open()
    budget.charge(account, 10)
    with pytest.raises(InvalidTransition):
        budget.credit(account, 11)
    assert budget.account(account).used == 10


def test_a_lower_capacity_takes_from_what_is_free_and_from_nobody(budget):
    account = budget.open(reserved=500)
    budget.charge(account, 100)
    budget.capacity = 300
    assert budget.available == 0
    assert budget.charge(account, 400)
    assert not budget.charge(account, 1)


def test_a_raised_cap_does_not_reach_into_reservations(budget):
    account = budget.open(cap=100)
    budget.open(reserved=800)
    budget.set_cap(account, 500)
    assert budget.charge(account, 200)
    assert not budget.charge(account, 1)


def test_a_group_commits_no_more_than_its_limit(budget):
    group = budget.open_group(500)
    reserved = budget.open(reserved=300, group=group)
    assert budget.open(reserved=201, group=group) is None
    burst = budget.open(group=group)
    assert not budget.charge(burst, 201)
    assert denial(budget, burst) == (201, 200, False)
    assert budget.charge(burst, 200)
    assert budget.charge(reserved, 300)
    assert not budget.reserve(reserved, 301)


def test_a_group_may_go_before_what_was_allocated_in_it(budget):
    group = budget.open_group(500)
    account = budget.open(group=group)
    budget.charge(account, 100)
    budget.close(account)
    budget.close_group(group)
    budget.credit(account, 100)
    assert budget.committed == 0


class BudgetMachine(RuleBasedStateMachine):
    """Any operations: the sums are right, no rule is broken, everything comes back."""

    def __init__(self):
        super().__init__()
        self.budget = Budget(CAPACITY)
        self.group = self.budget.open_group(400)
        self.accounts = {}
        self.left = {}

    sizes = st.integers(0, 600)
    accounts_drawn = st.randoms(use_true_random=False)

    @rule(cap=st.none() | sizes, reserved=sizes, grouped=st.booleans())
    def open(self, cap, reserved, grouped):
        before = self.budget.available
        number = self.budget.open(cap=cap, reserved=reserved, group=self.group if grouped else None)
        if number is None:
            assert grouped or reserved > before
        else:
            self.accounts[number] = cap

    @precondition(lambda self: self.accounts)
    @rule(nbytes=sizes, random=accounts_drawn)
    def charge(self, nbytes, random):
        number = random.choice(list(self.accounts))
        room = self.budget.headroom(number)
        assert self.budget.charge(number, nbytes) == (nbytes <= room)
        cap = self.budget.account(number).cap
        assert cap is None or self.budget.account(number).used <= max(cap, 0) or nbytes > room

    @precondition(lambda self: self.accounts)
    @rule(nbytes=sizes, random=accounts_drawn)
    def credit(self, nbytes, random):
        number = random.choice(list(self.accounts))
        self.budget.credit(number, min(nbytes, self.budget.account(number).used))

    @precondition(lambda self: self.accounts)
    @rule(nbytes=sizes, random=accounts_drawn)
    def reserve(self, nbytes, random):
        number = random.choice(list(self.accounts))
        before = self.budget.account(number).reserved
        done = self.budget.reserve(number, nbytes)
        assert self.budget.account(number).reserved == (nbytes if done else before)
        assert done or nbytes > before

    @precondition(lambda self: self.accounts)
    @rule(random=accounts_drawn)
    def close(self, random):
        number = random.choice(list(self.accounts))
        del self.accounts[number]
        used = self.budget.account(number).used
        self.budget.close(number)
        if used:
            self.left[number] = used

    @invariant()
    def holds(self):
        self.budget.check_invariants()
        assert self.budget.committed <= CAPACITY

    def teardown(self):
        for number in list(self.accounts):
            self.budget.credit(number, self.budget.account(number).used)
            self.budget.close(number)
        for number, used in self.left.items():
            self.budget.credit(number, used)
        assert (self.budget.committed, self.budget.used) == (0, 0)
        assert self.budget.available == CAPACITY


TestBudgetMachine = BudgetMachine.TestCase
