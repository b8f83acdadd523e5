"""What gets through to a worker, and out of it, while its tool is busy."""

from __future__ import annotations

import anyio
import pytest
from worker_tools import Calls, Echo, Waits

from asyncgpu.errors import WorkerDied, WorkerError

pytestmark = pytest.mark.anyio


def busy_loop(gate):
    """Python that never waits, until the test says so."""
    import threading

    over = threading.Event()
    threading.Thread(target=lambda: (gate.wait(), over.set())).start()
    while not over.is_set():
        pass


async def test_a_queued_request_that_is_cancelled_never_starts(start, gate):
    channel = await start(Waits(gate))
    running, queued, wanted = (channel.submit([item]) for item in ("wait", "unwanted", "wanted"))
    await gate.heard()
    channel.cancel(queued)
    await channel.statistics()  # behind the cancel, on the same lane
    gate.open()
    with anyio.fail_after(10):
        assert (await running).value == [("wait", False)]
        error = (await queued).error
        assert (await wanted).value == [("wanted", False)]
    assert type(error) is WorkerError
    assert "cancelled before it started" in str(error)


async def test_a_running_request_is_told_that_it_is_cancelled(start, gate):
    channel = await start(Waits(gate))
    running = channel.submit(["wait"])
    await gate.heard()
    channel.cancel(running)
    await channel.statistics()
    gate.open()
    assert (await running).value == [("wait", True)]
    assert (await channel.submit(["next"])).value == [("next", False)]


async def test_cancelling_what_is_answered_means_nothing(echo):
    promise = echo.submit([1])
    await promise
    echo.cancel(promise)
    assert (await echo.submit([2])).value == [2]


async def test_a_busy_worker_answers_within_a_tenth_of_a_second(start, gate):
    channel = await start(Calls())
    running = channel.submit([[busy_loop, gate]])
    await gate.heard()
    delays = []
    for _ in range(5):
        began = anyio.current_time()
        statistics = await channel.statistics()
        delays.append(anyio.current_time() - began)
    assert sorted(delays)[2] < 0.1
    assert statistics.busy_seconds > 0
    gate.open()
    await running


async def test_statistics_count_what_was_served(echo):
    for item in range(3):
        await echo.submit([item])
    statistics = await echo.statistics()
    assert statistics.served == 4  # and the load
    assert statistics.busy_seconds is None
    assert statistics.resident_memory > 1 << 20


async def test_a_question_to_a_worker_that_dies_is_answered(start, gate):
    channel = await start(Waits(gate))
    channel.submit(["wait"])
    await gate.heard()
    errors = []

    async def ask():
        with pytest.raises(WorkerDied) as caught:
            await channel.statistics()
        errors.append(caught.value)

    async with anyio.create_task_group() as tasks:
        channel.kill()
        tasks.start_soon(ask)
    assert len(errors) == 1


async def test_progress_arrives_while_its_request_still_runs(start, gate):
    channel = await start(ReportsAndWaits(gate))
    reports, arrived = [], anyio.Event()

    def on_progress(promise, done, total):
        reports.append((promise, done, total))
        if done == total:
            arrived.set()

    channel.on_progress(on_progress)
    promise = channel.submit([1])
    with anyio.fail_after(10):
        await arrived.wait()
    assert reports[-1] == (promise, 100, 100)
    assert reports[0] == (promise, 1, 100)
    assert len(reports) < 100  # those that follow at once are dropped
    await gate.heard()
    gate.open()
    await promise


class ReportsAndWaits(Echo):
    def __init__(self, gate):
        self.gate = gate

    def run(self, items):
        from asyncgpu import worker

        for done in range(1, 101):
            worker.progress(done, 100)
        self.gate.wait()
        return items
