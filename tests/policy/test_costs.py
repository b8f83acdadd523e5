"""Costs are looked at before anything starts; a bad one is named."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy
import pytest

from asyncgpu.errors import InvalidRequest
from asyncgpu.policy.costs import are_uniform, read_costs


@pytest.mark.parametrize(
    "costs",
    [[], [0], [0.0, 2.5], [1, 2.5, 3], [numpy.float32(2.5), numpy.int64(3)], [Fraction(1, 2)]],
)
def test_numbers_become_floats(costs):
    read = read_costs(costs)
    assert read == [float(cost) for cost in costs]
    assert all(type(cost) is float for cost in read)


@pytest.mark.parametrize(
    "bad",
    [
        -1,
        -0.5,
        math.nan,
        math.inf,
        -math.inf,
        10**400,
        True,
        "1",
        None,
        1j,
        [1],
        numpy.bool_(True),
        numpy.float64("nan"),
    ],
)
def test_a_bad_cost_is_named_by_index_and_value(bad):
    with pytest.raises(InvalidRequest) as caught:
        read_costs([1.0, 2.0, bad, 3.0])
    assert "item 2" in str(caught.value)
    assert repr(bad) in str(caught.value)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_equal_bad_costs_are_found_too(bad):
    with pytest.raises(InvalidRequest, match="item 0"):
        read_costs([bad] * 3)


def test_a_sum_beyond_all_floats_is_refused():
    with pytest.raises(InvalidRequest, match="add up to infinity"):
        read_costs([1e308] * 3)


def test_the_callers_list_stays_its_own():
    costs = [1.0, 2.0]
    read_costs(costs).append(3.0)
    assert costs == [1.0, 2.0]


def test_uniform_means_all_the_same():
    assert are_uniform([])
    assert are_uniform([2.0, 2.0])
    assert not are_uniform([2.0, 2.0, 1.0])
