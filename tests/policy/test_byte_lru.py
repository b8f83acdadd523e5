"""The least recently used goes first, and the bytes never exceed the capacity."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgpu.policy.byte_lru import ByteLru


def test_what_was_used_last_stays_longest():
    lru = ByteLru(10)
    assert [lru.add(key, 5) for key in "ab"] == [[], []]
    assert lru.touch("a")
    assert lru.add("c", 5) == ["b"]
    assert (list(lru), lru.used, lru.evictions) == (["a", "c"], 10, 1)
    assert not lru.touch("b")


def test_as_many_go_as_the_newcomer_needs():
    lru = ByteLru(10)
    for key in "abcde":
        lru.add(key, 2)
    assert lru.add("x", 5) == ["a", "b", "c"]
    assert lru.used == 9


def test_what_is_larger_than_all_of_it_evicts_nothing_and_its_old_self_is_gone():
    lru = ByteLru(10)
    lru.add("a", 5)
    lru.add("b", 5)
    assert lru.add("a", 11) is None
    assert (list(lru), lru.used, lru.evictions) == (["b"], 5, 0)


def test_a_key_that_is_added_again_is_counted_once():
    lru = ByteLru(10)
    lru.add("a", 9)
    assert lru.add("a", 10) == []
    assert (len(lru), lru.used) == (1, 10)


def test_keys_can_be_forgotten_by_a_rule():
    lru = ByteLru(10)
    for number in range(5):
        lru.add(number, 2)
    assert lru.remove_where(lambda key: key % 2) == [1, 3]
    assert (list(lru), lru.used) == ([0, 2, 4], 6)


@pytest.mark.parametrize("capacity", [0, 1])
def test_no_capacity_holds_nothing_but_what_weighs_nothing(capacity):
    lru = ByteLru(capacity)
    assert lru.add("a", 2) is None
    assert lru.add("b", 0) == []
    assert "b" in lru


operations = st.lists(
    st.tuples(st.sampled_from(["add", "touch", "remove"]), st.integers(0, 5), st.integers(0, 8))
)


@given(operations, st.integers(0, 20))
def test_it_does_what_a_slow_and_plain_one_does(steps, capacity):
    lru, plain = ByteLru(capacity), OrderedDict()
    for what, key, size in steps:
        if what == "touch":
            assert lru.touch(key) == (key in plain)
            if key in plain:
                plain.move_to_end(key)
        elif what == "remove":
            assert lru.remove(key) == (plain.pop(key, None) is not None)
        else:
            plain.pop(key, None)
            gone = None
            if size <= capacity:
                gone = []
                while sum(plain.values()) + size > capacity:
                    gone.append(plain.popitem(last=False)[0])
                plain[key] = size
            assert lru.add(key, size) == gone
        assert list(lru) == list(plain)
        assert lru.used == sum(plain.values()) <= capacity
