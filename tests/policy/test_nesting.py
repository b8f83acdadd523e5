"""Who waits for himself, over any number of steps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asyncgpu.policy.nesting import Wait, hopeless


def claims(*ids):
    return frozenset(ids)


def never(key, staying):
    return False


def test_somebody_who_waits_for_a_worker_that_waits_for_nobody_is_served():
    assert hopeless({"a": Wait(claims(1), claims(2))}, never) == set()


def test_a_worker_that_waits_for_itself_is_stuck():
    assert hopeless({"a": Wait(claims(1), claims(1))}, never) == {"a"}


def test_another_worker_of_the_same_tool_will_do():
    assert hopeless({"a": Wait(claims(1), claims(1, 2))}, never) == set()


def test_nobody_is_there_and_nobody_can_come():
    assert hopeless({"a": Wait(claims(1), claims())}, never) == {"a"}


def test_a_ring_of_workers_is_stuck_and_whoever_waits_for_it_too():
    waits = {
        "1 for 2": Wait(claims(1), claims(2)),
        "2 for 3": Wait(claims(2), claims(3)),
        "3 for 1": Wait(claims(3), claims(1)),
        "4 for 1": Wait(claims(4), claims(1)),
    }
    assert hopeless(waits, never) == set(waits)
    waits["3 for 1"] = Wait(claims(3), claims(1, 5))
    assert hopeless(waits, never) == set()


def test_a_device_is_there_for_the_next_when_the_one_before_is_done():
    """Two hold the two devices, and a third could open once either leaves."""

    def device_of_one(key, staying):
        return 1 not in staying

    waits = {"a": Wait(claims(1), claims(3)), "b": Wait(claims(2), claims())}
    assert hopeless(waits, device_of_one) == set()
    waits["a"] = Wait(claims(1), claims(2))
    assert hopeless(waits, device_of_one) == {"a", "b"}


def test_the_chain_of_calls_stays_as_long_as_its_last_one_waits():
    waits = {
        "outer": Wait(claims(1), claims(2)),
        "inner": Wait(claims(1, 2), claims(1)),
    }
    assert hopeless(waits, never) == set(waits)


ids = st.frozensets(st.integers(0, 5), max_size=3)
waits = st.dictionaries(st.integers(), st.builds(Wait, ids.filter(bool), ids), max_size=6)


@given(waits)
def test_who_is_not_stuck_is_served_in_some_order(waits):
    """Serve whoever can be served, again and again: exactly the stuck ones are left."""
    left = dict(waits)
    while True:
        held = frozenset[int]().union(*(wait.chain for wait in left.values()))
        done = [key for key, wait in left.items() if wait.serving - held]
        if not done:
            break
        for key in done:
            del left[key]
    assert set(left) == hopeless(waits, never)


@given(waits, st.builds(Wait, ids.filter(bool), ids))
def test_a_newcomer_who_has_hope_takes_it_from_nobody(waits, newcomer):
    before = hopeless(waits, never)
    after = hopeless({**waits, "new": newcomer}, never)
    if "new" not in after:
        assert after == before
