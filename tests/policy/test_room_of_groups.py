"""Waiting for room in a group does not hold up those who are not in it."""

from __future__ import annotations

import pytest

from asyncgpu.policy.budget import Budget
from asyncgpu.policy.qos import QoSPolicy
from asyncgpu.policy.room import RoomQueue

BURSTABLE = QoSPolicy.BURSTABLE


class Shares:
    def __init__(self, capacity):
        self.budget = Budget(capacity)
        self.reserve = self.budget.reserve

    @property
    def available(self):
        return self.budget.available

    def commitment(self, account):
        return self.budget.account(account).commitment


@pytest.fixture
def shares():
    return Shares(1000)


@pytest.fixture
def queue(shares):
    return RoomQueue(shares, ageing_seconds=10)


def test_a_full_group_does_not_hold_up_the_others(shares, queue):
    group = shares.budget.open_group(300)
    inside = shares.budget.open(reserved=200, group=group)
    waiting = queue.add(shares.budget.open(group=group), 200, BURSTABLE, 0.0)
    assert queue.serve() == []
    outside = queue.add(shares.budget.open(), 700, BURSTABLE, 1.0)
    assert queue.serve() == [outside]
    assert queue.head is waiting
    shares.budget.close(inside)
    assert queue.serve() == [waiting]


def test_a_full_device_still_serves_in_order(shares, queue):
    holder = shares.budget.open(reserved=900)
    group = shares.budget.open_group(500)
    first = queue.add(shares.budget.open(group=group), 300, BURSTABLE, 0.0)
    second = queue.add(shares.budget.open(), 100, BURSTABLE, 1.0)
    assert queue.serve() == []
    assert shares.available == 0, "the first in line has taken what there was"
    shares.budget.close(holder)
    assert queue.serve() == [first, second]
