"""How far a source may be drawn ahead of whoever takes the results."""

from __future__ import annotations

import pytest

from asyncgpu.errors import InvalidRequest
from asyncgpu.policy.look_ahead import LookAhead, check_look_ahead


def test_what_is_out_never_exceeds_the_limit():
    ahead = LookAhead(2, limit=5, max_batch=8)
    assert ahead.room == 5
    ahead.drawn += 5
    assert ahead.room == 0
    ahead.taken += 2
    assert ahead.room == 2


def test_by_default_it_is_four_full_micro_batches_for_each_slot():
    assert LookAhead(3, max_batch=8).limit == 3 * 8 * 4


def test_without_a_max_batch_it_grows_with_the_micro_batches_and_never_shrinks():
    ahead = LookAhead(2, max_batch=None)
    assert ahead.limit == 8
    ahead.answered(16)
    ahead.answered(3)
    assert ahead.limit == 2 * 16 * 4
    ahead.answered(10**9)
    assert ahead.limit == 2 * 1024 * 4


@pytest.mark.parametrize("chosen", [{"limit": 5}, {"max_batch": 8}])
def test_a_limit_or_a_max_batch_that_was_chosen_stays(chosen):
    ahead = LookAhead(1, **{"limit": None, "max_batch": None, **chosen})
    before = ahead.limit
    ahead.answered(500)
    assert ahead.limit == before


def test_a_limit_that_is_lower_than_what_is_out_leaves_no_room_and_no_debt():
    ahead = LookAhead(1, limit=2, max_batch=None)
    ahead.drawn = 9
    assert ahead.room == 0


@pytest.mark.parametrize("limit", [0, -1, True, 1.0, "5"])
def test_a_limit_that_means_nothing_is_refused(limit):
    with pytest.raises(InvalidRequest, match="look_ahead"):
        check_look_ahead(limit)


@pytest.mark.parametrize("limit", [None, 1, 10**9])
def test_any_other_is_fine(limit):
    check_look_ahead(limit)
