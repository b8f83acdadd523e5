"""QoS classes and the key by which waiters are served."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asyncgpu.policy.qos import QoSPolicy, waiting_key

CLASSES = st.sampled_from(list(QoSPolicy))
TIMES = st.floats(0, 1e6)


def test_priorities_and_ranks_go_the_same_way():
    assert [qos.priority for qos in QoSPolicy] == [100, 50, 0]
    assert [qos.rank for qos in QoSPolicy] == [0, 1, 2]
    assert QoSPolicy("burstable") is QoSPolicy.BURSTABLE


@given(TIMES, CLASSES, CLASSES)
def test_of_two_that_came_together_the_better_class_goes_first(now, one, other):
    keys = waiting_key(now, one, 10.0), waiting_key(now, other, 10.0)
    assert (keys[0] < keys[1]) == (one.rank < other.rank)


@given(TIMES, CLASSES)
def test_within_a_class_the_earlier_goes_first(now, qos):
    assert waiting_key(now, qos, 10.0) < waiting_key(now + 1.0, qos, 10.0)


def test_a_waiter_rises_one_class_for_each_ageing_time():
    old = waiting_key(0.0, QoSPolicy.BEST_EFFORT, 10.0)
    assert waiting_key(9.0, QoSPolicy.BURSTABLE, 10.0) < old
    assert waiting_key(11.0, QoSPolicy.BURSTABLE, 10.0) > old
    assert waiting_key(19.0, QoSPolicy.GUARANTEED, 10.0) < old
    assert waiting_key(21.0, QoSPolicy.GUARANTEED, 10.0) > old
