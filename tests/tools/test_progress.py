"""What a run tells about its progress."""

from __future__ import annotations

import pytest

from asyncgpu.tools.progress import Progress, Reporter


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def reporter(clock, total, costs):
    seen: list[Progress] = []
    return Reporter(seen.append, total, costs, clock), seen


def test_a_snapshot_counts_items_and_estimates_by_cost(clock):
    report, seen = reporter(clock, 3, [8.0, 1.0, 1.0])
    clock.now = 5.0  # loading; the rate must not suffer from it
    report.working()
    clock.now = 13.0
    report.items([0], done=1, failed=0)
    assert (seen[-1].done, seen[-1].total, seen[-1].rate) == (1, 3, 1 / 8)
    assert seen[-1].eta == pytest.approx(2.0)
    assert seen[-1].elapsed == 13.0
    assert not seen[-1].finished


def test_the_last_snapshot_always_comes_and_others_at_a_bearable_rate(clock):
    report, seen = reporter(clock, 1000, 1000)
    report.working()
    for item in range(1000):
        clock.now += 0.001
        report.items([item], done=1, failed=0)
    assert len(seen) <= 12
    assert seen[-1].finished
    assert seen[-1].eta == 0.0


def test_equal_items_count_each_and_cost_once(clock):
    report, seen = reporter(clock, 10, 1)
    report.working()
    clock.now = 1.0
    report.items([0], done=9, failed=1)
    assert (seen[-1].done, seen[-1].failed, seen[-1].finished) == (9, 1, True)


def test_loading_is_told_once_for_each_change(clock):
    report, seen = reporter(clock, 1, 1)
    for workers in (0, 2, 2, 1, 0):
        report.loading(workers)
    assert [progress.loading for progress in seen] == [2, 1, 0]


def test_before_the_first_answer_nothing_is_estimated(clock):
    report, seen = reporter(clock, 1, 1)
    report.loading(1)
    assert (seen[-1].rate, seen[-1].eta) == (0.0, None)


def test_nobody_watching_costs_nothing(clock):
    report = Reporter(None, 10, 10, clock)
    report.items([0], done=1, failed=0)
    report.loading(3)
