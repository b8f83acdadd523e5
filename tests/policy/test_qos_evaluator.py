"""Admission by QoS class. The rows I1.. and J1.. are those of the scenario tables."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncgpu.errors import InvalidRequest, RequestError
from asyncgpu.policy.evaluator import Decision, QosPolicyEvaluator
from asyncgpu.policy.qos import QoSPolicy
from asyncgpu.policy.task_meta import QosTaskMeta
from asyncgpu.units import GB, MB


def guaranteed(nbytes, **more):
    return QosTaskMeta.guaranteed("g", "Guaranteed", nbytes, **more)


def burstable(nbytes, ratio=1.0, **more):
    return QosTaskMeta.burstable("b", "Burstable", nbytes, ratio, **more)


def best_effort():
    return QosTaskMeta.best_effort("e", "Best effort")


def take(evaluator, task):
    """Evaluate and reserve."""
    result = evaluator.evaluate(task)
    evaluator.reserve(result)
    return result


# ------------------------------------------------------------------------------ the documented use


def test_the_documented_sample():
    evaluator = QosPolicyEvaluator(total_memory=8 * 1024**3, total_bandwidth=1.0)
    task = QosTaskMeta.guaranteed("inference-1", "LLM Inference", 256 * 1024 * 1024)
    result = evaluator.evaluate(task)
    said = (
        f"Task admitted with priority {result.priority}"
        if result.admitted
        else f"Task rejected: {result.reason}"
    )
    assert said == "Task admitted with priority 100"


def test_i1_the_priorities_of_the_classes():
    tasks = (guaranteed(1), burstable(1), best_effort())
    assert [task.priority for task in tasks] == [100, 50, 0]
    evaluator = QosPolicyEvaluator(10)
    assert [evaluator.evaluate(task).priority for task in tasks] == [100, 50, 0]


def test_i2_only_a_strictly_higher_class_stands_above_another():
    above = {(a, b) for a in QoSPolicy for b in QoSPolicy if a.priority > b.priority}
    g, b, e = QoSPolicy.GUARANTEED, QoSPolicy.BURSTABLE, QoSPolicy.BEST_EFFORT
    assert above == {(g, b), (g, e), (b, e)}


def test_i5_a_burstable_task_with_room_is_admitted_and_its_base_reserved():
    evaluator = QosPolicyEvaluator(1000)
    result = take(evaluator, burstable(300, 2.0))
    assert result.decision is Decision.ADMIT
    assert (result.reserved_memory, result.allowed_memory) == (300, 600)
    assert evaluator.stats().burstable_memory == 300


def test_i6_a_burstable_task_with_some_room_is_throttled_and_its_base_reserved():
    evaluator = QosPolicyEvaluator(500)
    take(evaluator, guaranteed(200))
    result = take(evaluator, burstable(200, 2.0))
    assert result.decision is Decision.THROTTLE
    assert result.admitted
    assert (result.reserved_memory, result.allowed_memory) == (200, 300)
    assert evaluator.stats().available_memory == 100
    assert "300 of at most 400 bytes" in result.reason


def test_i9_a_best_effort_task_with_room_is_admitted_and_nothing_reserved():
    evaluator = QosPolicyEvaluator(1000)
    result = take(evaluator, best_effort())
    assert result.decision is Decision.ADMIT
    assert (result.reserved_memory, result.allowed_memory) == (0, 1000)
    assert evaluator.stats().available_memory == 1000


def test_i11_a_burst_is_cut_to_whole_bytes():
    assert burstable(3, 1.5).memory_limit == 4


@pytest.mark.parametrize("ratio", [0.99, 0, -1.0, math.nan, math.inf, True, "2"])
def test_i11_a_burst_ratio_below_one_is_refused(ratio):
    with pytest.raises(ValueError, match="burst_ratio"):
        burstable(3, ratio)


def test_i13_the_samples_task_is_admitted_with_priority_100():
    result = QosPolicyEvaluator("8GiB").evaluate(guaranteed("256MiB"))
    assert (result.admitted, result.priority) == (True, 100)
    assert (result.reserved_memory, result.queue_position) == (256 * MB, None)


def test_j1_too_much_is_rejected_with_the_numbers():
    result = QosPolicyEvaluator(1000).evaluate(guaranteed(1500))
    assert result.decision is Decision.REJECT
    assert not result.admitted
    assert "1500 bytes asked" in result.reason
    assert "1000 of 1000 bytes free" in result.reason


def test_j5_a_burst_may_pass_the_total_and_a_base_may_not():
    evaluator = QosPolicyEvaluator(1000)
    assert evaluator.evaluate(burstable(800, 1.5)).admitted
    assert evaluator.evaluate(burstable(1200)).decision is Decision.REJECT


def test_j7_what_was_reserved_of_the_bandwidth_comes_back_exactly():
    evaluator = QosPolicyEvaluator(1000)
    results = [take(evaluator, guaranteed(1, bandwidth=share)) for share in (0.1, 0.7, 0.2)]
    assert evaluator.stats().available_bandwidth == 0
    for result in results:
        evaluator.release(result)
    assert evaluator.stats().reserved_bandwidth == 0


def test_j8_admission_does_not_fill_up_over_a_thousand_cycles():
    evaluator = QosPolicyEvaluator(1000)
    before = evaluator.stats()
    for _ in range(1000):
        results = [take(evaluator, task) for task in (guaranteed(500), burstable(500, 2.0))]
        results.append(take(evaluator, best_effort()))
        assert [r.decision.name for r in results] == ["ADMIT", "THROTTLE", "QUEUE"]
        for result in results:
            evaluator.release(result)
    assert evaluator.stats() == before


def test_j9_reserved_and_available_memory():
    evaluator = QosPolicyEvaluator("100MB")
    results = [take(evaluator, guaranteed("10MB")), take(evaluator, burstable("20MB"))]
    stats = evaluator.stats()
    assert (stats.reserved_memory, stats.available_memory) == (30 * MB, 70 * MB)
    assert (stats.guaranteed_memory, stats.burstable_memory) == (10 * MB, 20 * MB)
    for result in results:
        evaluator.release(result)
    assert evaluator.stats().reserved_memory == 0


# --------------------------------------------------------------------------------------- bandwidth


def test_a_task_that_names_no_bandwidth_takes_none():
    """So one guaranteed task does not throttle and queue all that come after it."""
    evaluator = QosPolicyEvaluator(1000)
    take(evaluator, guaranteed(100))
    assert take(evaluator, burstable(100, 2.0)).decision is Decision.ADMIT
    assert take(evaluator, best_effort()).decision is Decision.ADMIT


def test_shares_of_the_bandwidth_that_add_up_to_it_fit():
    evaluator = QosPolicyEvaluator(1000)
    for share in (0.2, 0.2, 0.2, 0.4):
        assert take(evaluator, guaranteed(1, bandwidth=share)).admitted
    result = evaluator.evaluate(guaranteed(1, bandwidth=0.01))
    assert result.decision is Decision.REJECT
    assert "bandwidth 0.01 asked, 0.0 of 1.0 free" in result.reason


def test_a_burstable_task_is_throttled_to_the_bandwidth_that_is_left():
    evaluator = QosPolicyEvaluator(1000, total_bandwidth=10)
    take(evaluator, guaranteed(1, bandwidth=8))
    result = take(evaluator, burstable(1, bandwidth=5))
    assert result.decision is Decision.THROTTLE
    assert result.reserved_bandwidth == 2
    assert evaluator.stats().available_bandwidth == 0


def test_a_best_effort_task_waits_for_bandwidth_too():
    evaluator = QosPolicyEvaluator(1000)
    take(evaluator, guaranteed(1, bandwidth=1.0))
    result = evaluator.evaluate(best_effort())
    assert result.decision is Decision.QUEUE
    assert "bandwidth" in result.reason


# ----------------------------------------------------------------------------------- queue, release


def test_places_in_the_queue_are_counted_from_the_front():
    evaluator = QosPolicyEvaluator(100)
    owner = take(evaluator, guaranteed(100))
    waiting = [take(evaluator, best_effort()) for _ in range(3)]
    assert [result.queue_position for result in waiting] == [0, 1, 2]
    assert evaluator.stats().queued == 3
    evaluator.release(owner)
    evaluator.release(waiting[0])
    assert evaluator.stats().queued == 2
    admitted = take(evaluator, best_effort())
    evaluator.release(admitted)
    assert evaluator.stats().queued == 2, "an admitted task was not in the queue"


def test_a_second_release_is_an_error_and_changes_nothing():
    evaluator = QosPolicyEvaluator(100)
    kept, ended = take(evaluator, guaranteed(60)), take(evaluator, guaranteed(40))
    evaluator.release(ended)
    with pytest.raises(InvalidRequest, match="no longer"):
        evaluator.release(ended)
    assert evaluator.stats().reserved_memory == 60
    evaluator.release(kept)


def test_what_was_never_reserved_cannot_be_released():
    """Not even by a result that is equal to one that was."""
    evaluator = QosPolicyEvaluator(100)
    reserved, other = evaluator.evaluate(guaranteed(10)), evaluator.evaluate(guaranteed(10))
    assert reserved == other
    evaluator.reserve(reserved)
    with pytest.raises(InvalidRequest, match="never"):
        evaluator.release(other)
    with pytest.raises(InvalidRequest, match="already"):
        evaluator.reserve(reserved)
    assert evaluator.stats().reserved_memory == 10


def test_a_rejected_task_cannot_be_reserved():
    evaluator = QosPolicyEvaluator(100)
    with pytest.raises(InvalidRequest, match="101 bytes asked"):
        evaluator.reserve(evaluator.evaluate(guaranteed(101)))


@pytest.mark.parametrize(
    ("task", "named"),
    [(guaranteed(60), "60 bytes were free"), (guaranteed(10, bandwidth=0.6), "0.6 of the band")],
)
def test_a_promise_that_was_overtaken_is_not_kept_twice(task, named):
    evaluator = QosPolicyEvaluator(100)
    first, second = evaluator.evaluate(task), evaluator.evaluate(task)
    evaluator.reserve(first)
    with pytest.raises(RequestError, match=named):
        evaluator.reserve(second)
    evaluator.release(first)
    evaluator.reserve(second)


# ---------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: QosPolicyEvaluator(0), "total_memory"),
        (lambda: QosPolicyEvaluator(-1), "total_memory"),
        (lambda: QosPolicyEvaluator("much"), "total_memory"),
        (lambda: QosPolicyEvaluator(1, 0), "total_bandwidth"),
        (lambda: QosPolicyEvaluator(1, -1), "total_bandwidth"),
        (lambda: QosPolicyEvaluator(1, math.nan), "total_bandwidth"),
        (lambda: guaranteed(0), "nbytes"),
        (lambda: guaranteed(-5), "nbytes"),
        (lambda: burstable(0), "nbytes"),
        (lambda: guaranteed(1, bandwidth=-0.1), "bandwidth"),
        (lambda: guaranteed(1, bandwidth=True), "bandwidth"),
    ],
)
def test_what_means_nothing_is_refused(make, named):
    with pytest.raises(InvalidRequest, match=named):
        make()


# ---------------------------------------------------------------------------------------- any order

TASKS = st.one_of(
    st.builds(guaranteed, st.integers(1, 8 * GB), bandwidth=st.sampled_from([0.0, 0.1, 0.3, 1.0])),
    st.builds(
        burstable,
        st.integers(1, 4 * GB),
        st.floats(1, 4),
        bandwidth=st.sampled_from([0.0, 0.2, 0.7]),
    ),
    st.builds(best_effort),
)


@settings(deadline=None)
@given(st.lists(st.one_of(TASKS, st.integers(0, 20)), max_size=60))
def test_sums_never_pass_the_totals_and_everything_comes_back(steps):
    """A task is evaluated and, if it may run or wait, reserved; a number releases that one."""
    evaluator = QosPolicyEvaluator("8GiB")
    start = evaluator.stats()
    held = []
    for step in steps:
        if isinstance(step, int):
            if held:
                evaluator.release(held.pop(step % len(held)))
        else:
            before = evaluator.stats()
            result = evaluator.evaluate(step)
            assert evaluator.stats() == before
            assert evaluator.evaluate(step) == result
            assert result.reserved_memory <= result.allowed_memory <= before.available_memory
            if result.decision is not Decision.REJECT:
                evaluator.reserve(result)
                held.append(result)
        stats = evaluator.stats()
        assert 0 <= stats.available_memory <= stats.total_memory
        assert stats.reserved_memory == sum(result.reserved_memory for result in held)
        assert 0 <= stats.reserved_bandwidth <= stats.total_bandwidth
        assert stats.running + stats.queued == len(held)
    for result in held:
        evaluator.release(result)
    assert evaluator.stats() == start
