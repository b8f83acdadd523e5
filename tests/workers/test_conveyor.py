"""Heavy jobs leave the loop alone, and nobody overtakes anybody."""

from __future__ import annotations

import threading

import anyio
import pytest

from asyncgpu.workers.conveyor import Conveyor
from asyncgpu.workers.reactor import running_reactor

pytestmark = pytest.mark.anyio


async def test_a_light_job_runs_at_once_when_nothing_is_before_it():
    conveyor = Conveyor(running_reactor(), "asyncgpu-test")
    results = []
    conveyor.put(lambda: 1, results.append, heavy=False)
    assert results == [1]
    conveyor.close()


async def test_light_jobs_follow_a_heavy_one_in_order():
    conveyor = Conveyor(running_reactor(), "asyncgpu-test")
    gate, over, results = threading.Event(), anyio.Event(), []

    def heavy():
        assert gate.wait(10)
        return ("heavy", threading.current_thread().name)

    conveyor.put(heavy, results.append, heavy=True)
    for index in range(3):
        conveyor.put(lambda index=index: index, results.append, heavy=False)
    conveyor.put(lambda: None, lambda _: over.set(), heavy=False)
    assert conveyor.under_way == 5
    assert results == []
    gate.set()
    with anyio.fail_after(10):
        await over.wait()
    assert results == [("heavy", "asyncgpu-test"), 0, 1, 2]
    assert conveyor.under_way == 0
    conveyor.close()


async def test_results_arrive_in_the_loops_thread():
    conveyor = Conveyor(running_reactor(), "asyncgpu-test")
    over, threads = anyio.Event(), []

    def arrived(_):
        threads.append(threading.current_thread())
        over.set()

    conveyor.put(lambda: None, arrived, heavy=True)
    with anyio.fail_after(10):
        await over.wait()
    assert threads == [threading.current_thread()]
    conveyor.close()


async def test_close_ends_the_thread():
    conveyor = Conveyor(running_reactor(), "asyncgpu-test-closed")
    over = anyio.Event()
    conveyor.put(lambda: None, lambda _: over.set(), heavy=True)
    with anyio.fail_after(10):
        await over.wait()
    conveyor.close()
    assert "asyncgpu-test-closed" not in {thread.name for thread in threading.enumerate()}
