"""The marks of memory pressure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgpu.policy.pressure import PressureLevel, PressureMarks


@pytest.fixture
def marks():
    return PressureMarks(1000, soft=0.8, hard=0.95)


def test_each_mark_is_reported_once_per_crossing(marks):
    used = [0, 799, 800, 900, 949, 950, 1000]
    assert [marks.moved(n) for n in used] == [False, False, True, False, False, True, False]


def test_a_mark_is_armed_again_below_it(marks):
    assert [marks.moved(n) for n in (850, 700, 850)] == [True, False, True]
    assert [marks.moved(n) for n in (960, 900, 960)] == [True, False, True]


def test_two_marks_at_once_are_one_crossing(marks):
    assert marks.moved(1000)
    assert marks.level is PressureLevel.HARD
    assert not marks.moved(1000)


@given(st.lists(st.integers(0, 1200)))
def test_the_bounds_tell_whether_anything_has_moved(uses):
    marks = PressureMarks(1000, soft=0.8, hard=0.95)
    for used in uses:
        within = marks.low <= used < marks.high
        level = marks.level
        rose = marks.moved(used)
        assert within == (marks.level is level)
        assert rose == (marks.level > level)
        assert marks.low <= used < marks.high
