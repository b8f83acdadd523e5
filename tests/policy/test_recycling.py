"""When a worker is to be replaced."""

from __future__ import annotations

import pytest

from asyncgpu.errors import InvalidRequest
from asyncgpu.policy.recycling import Recycling


def test_without_limits_there_is_nothing_to_watch():
    recycling = Recycling(None, None)
    for _ in range(1000):
        recycling.served()
    assert not recycling.wanted
    assert not recycling.weighs
    assert not recycling.due


def test_after_so_many_calls():
    recycling = Recycling(2, None)
    due = []
    for _ in range(3):
        recycling.served()
        due.append(recycling.due)
    assert due == [False, True, True]
    recycling.renew()
    assert not recycling.due


def test_by_what_it_has_grown_since_it_was_loaded():
    recycling = Recycling(None, "1KiB")
    recycling.measured(10_000)
    recycling.measured(11_024)
    assert not recycling.due
    recycling.measured(11_025)
    assert recycling.due


def test_a_new_worker_is_measured_against_itself():
    recycling = Recycling(None, "1KiB")
    recycling.measured(0)
    recycling.renew()
    recycling.measured(10_000)
    assert not recycling.due


@pytest.mark.parametrize("after", [0, -1, True, 1.5, "two"])
def test_a_number_of_calls_that_means_nothing(after):
    with pytest.raises(InvalidRequest, match="recycle_after"):
        Recycling(after, None)


@pytest.mark.parametrize("memory", [-1, "many", 1.5])
def test_a_size_that_means_nothing(memory):
    with pytest.raises(InvalidRequest, match="recycle_memory"):
        Recycling(None, memory)
