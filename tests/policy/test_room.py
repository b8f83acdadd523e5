"""Waiting for room in a device's memory."""

from __future__ import annotations

import pytest

from asyncgpu.policy.budget import Budget
from asyncgpu.policy.qos import QoSPolicy
from asyncgpu.policy.room import RoomQueue

BEST, BURST, GUARANTEED = QoSPolicy.BEST_EFFORT, QoSPolicy.BURSTABLE, QoSPolicy.GUARANTEED


class Shares(Budget):
    def commitment(self, account):
        return self.account(account).commitment


@pytest.fixture
def shares():
    return Shares(1000)


@pytest.fixture
def queue(shares):
    return RoomQueue(shares, ageing_seconds=10.0)


@pytest.fixture
def hog(shares):
    """An account that uses everything."""
    account = shares.open()
    shares.charge(account, 1000)
    return account


def test_who_finds_room_is_served_at_once(queue, shares):
    account = shares.open()
    demand = queue.add(account, 600, BURST, 0.0)
    assert queue.serve() == [demand]
    assert demand.met
    assert len(queue) == 0
    assert shares.account(account).reserved == 600


def test_the_better_class_is_served_first(queue, shares, hog):
    demands = [
        queue.add(shares.open(), 400, qos, now) for now, qos in enumerate([BEST, BURST, GUARANTEED])
    ]
    shares.credit(hog, 400)
    assert queue.serve() == [demands[2]]
    shares.credit(hog, 600)
    assert queue.serve() == [demands[1]]


def test_within_a_class_the_first_to_come_is_served_first(queue, shares, hog):
    demands = [queue.add(shares.open(), 500, BURST, 0.0) for _ in range(3)]
    shares.credit(hog, 1000)
    assert queue.serve() == demands[:2]


def test_who_has_waited_long_goes_before_a_better_class(queue, shares, hog):
    old = queue.add(shares.open(), 900, BEST, 0.0)
    queue.add(shares.open(), 900, GUARANTEED, 20.5)
    shares.credit(hog, 1000)
    assert queue.serve() == [old]


def test_the_first_in_line_takes_what_comes_free_piece_by_piece(queue, shares, hog):
    account = shares.open()
    demand = queue.add(account, 600, BURST, 0.0)
    for _ in range(5):
        shares.credit(hog, 100)
        assert queue.serve() == []
    assert shares.account(account).reserved == 500
    assert not shares.charge(hog, 1), "an allocation cannot take what the waiter has gathered"
    shares.credit(hog, 100)
    assert queue.serve() == [demand]


def test_a_small_demand_does_not_overtake_a_large_one(queue, shares, hog):
    queue.add(shares.open(), 900, BURST, 0.0)
    queue.add(shares.open(), 10, BURST, 1.0)
    shares.credit(hog, 500)
    assert queue.serve() == []


def test_a_demand_that_is_withdrawn_makes_way(queue, shares, hog):
    first = queue.add(shares.open(), 900, BURST, 0.0)
    second = queue.add(shares.open(), 100, BURST, 1.0)
    shares.credit(hog, 200)
    assert queue.serve() == []
    queue.withdraw(first)
    shares.reserve(first.account, 0)
    assert queue.serve() == [second]
    queue.withdraw(second)


def test_what_the_account_uses_already_counts(queue, shares, hog):
    demand = queue.add(hog, 1000, BURST, 0.0)
    assert queue.serve() == [demand]


def test_who_is_no_longer_first_gives_back_what_he_has_gathered(queue, shares, hog):
    """Else two would hold what each of them lacks, and neither would ever be served."""
    first = queue.add(shares.open(), 600, BURST, 0.0)
    shares.credit(hog, 500)
    assert queue.serve() == []
    better = queue.add(shares.open(), 400, GUARANTEED, 1.0)
    assert queue.serve() == [better]
    assert shares.account(first.account).reserved == 100, "what was left"
    shares.credit(hog, 500)
    assert queue.serve() == [first]


def test_what_was_given_for_good_stays_when_a_demand_for_more_makes_way(queue, shares, hog):
    account = shares.open()
    shares.credit(hog, 500)
    queue.add(account, 200, BURST, 0.0)
    queue.serve()
    more = queue.add(account, 700, BURST, 1.0)
    queue.serve()
    assert shares.account(account).reserved == 500
    queue.withdraw(more)
    assert shares.account(account).reserved == 200
    queue.lower(account, 50)
    assert shares.account(account).reserved == 50


def test_of_two_demands_of_one_account_the_first_that_is_met_stays_met(queue, shares, hog):
    account = shares.open()
    queue.add(account, 300, BURST, 0.0)
    large = queue.add(account, 900, BURST, 1.0)
    shares.credit(hog, 500)
    queue.serve()
    queue.withdraw(large)
    assert shares.account(account).reserved == 300


def test_all_demands_of_an_account_can_be_withdrawn(queue, shares, hog):
    closing, other = shares.open(), shares.open()
    for now in range(3):
        queue.add(closing, 400, GUARANTEED, now)
    waiting = queue.add(other, 400, BEST, 0.0)
    shares.credit(hog, 300)
    queue.serve()
    queue.withdraw_all(closing)
    queue.forget(closing)
    shares.close(closing)
    assert shares.account(closing) is None
    shares.credit(hog, 100)
    assert queue.serve() == [waiting]
