"""Which request runs, which is not wanted any more, and how far it has come."""

from __future__ import annotations

import pytest

from asyncgpu import worker
from asyncgpu.workers import inside as inside_module
from asyncgpu.workers.inside import Inside
from asyncgpu.workers.runs import Runs


@pytest.fixture
def reports():
    return []


@pytest.fixture
def runs(reports):
    return Runs(lambda *report: reports.append(report))


def test_a_request_cancelled_while_queued_does_not_start(runs):
    runs.cancel(2)
    assert runs.begin(1)
    assert not runs.cancelled()
    runs.end()
    assert not runs.begin(2)
    assert runs.begin(3)


def test_a_running_request_sees_its_own_cancel_only(runs):
    runs.begin(1)
    runs.cancel(1)
    assert runs.cancelled()
    runs.end()
    runs.begin(2)
    assert not runs.cancelled()


def test_a_late_cancel_means_nothing_and_is_forgotten(runs):
    runs.begin(1)
    runs.end()
    runs.cancel(1)
    assert not runs.cancelled()
    assert runs.begin(2)
    assert not runs.cancelled()
    assert runs._cancelled == set()


def test_stop_cancels_the_running_and_all_later_ones(runs):
    runs.begin(1)
    runs.stop()
    assert runs.cancelled()
    runs.end()
    assert not runs.begin(2)
    assert not runs.cancelled()


def test_progress_is_dropped_when_too_frequent_but_never_the_last(runs, reports):
    runs.begin(7)
    for done in range(1001):
        runs.progress(done, 1000)
    assert reports[0] == (7, 0, 1000)
    assert reports[-1] == (7, 1000, 1000)
    assert len(reports) < 500


def test_progress_outside_a_request_goes_nowhere(runs, reports):
    runs.progress(1, 2)
    assert reports == []


def test_busy_time_is_that_of_the_current_request(runs):
    assert runs.busy_seconds() is None
    runs.begin(1)
    assert runs.busy_seconds() >= 0
    runs.end()
    assert runs.busy_seconds() is None
    assert runs.served == 1


def test_outside_a_worker_nobody_cancels_and_nobody_listens():
    assert not worker.cancelled()
    worker.progress(1, 2)


def test_inside_a_worker_the_public_functions_reach_its_runs(runs, reports, monkeypatch):
    monkeypatch.setattr(inside_module, "_this_process", Inside(runs, None))
    runs.begin(1)
    worker.progress(1, 1)
    assert reports == [(1, 1, 1)]
    assert not worker.cancelled()
    runs.cancel(1)
    assert worker.cancelled()
