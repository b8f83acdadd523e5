"""Waiting for events without blocking a loop, a few at a time and very many."""

from __future__ import annotations

import asyncio
import threading
import weakref

import anyio
import pytest

from asyncgpu.contexts import poller
from asyncgpu.contexts.waiter import Waiter
from asyncgpu.errors import DeviceLost


class ScriptedEvent:
    """Done when the test says so; counts how often it was looked at."""

    def __init__(self):
        self.looks = 0
        self.error = None
        self._done = threading.Event()
        self.blocked_on = threading.Event()

    def finish(self, error=None):
        self.error = error
        self._done.set()

    def done(self):
        self.looks += 1
        if self._done.is_set() and self.error is not None:
            raise self.error
        return self._done.is_set()

    def synchronize(self):
        self.blocked_on.set()
        self._done.wait()
        if self.error is not None:
            raise self.error


class ScriptedStream:
    def record(self):
        return ScriptedEvent()


@pytest.fixture
async def waiter():
    opened = Waiter("w", ScriptedStream())
    yield opened
    await opened.stop()


def threads_of(name):
    return [thread for thread in threading.enumerate() if thread.name == f"asyncgpu {name} waiter"]


@pytest.mark.anyio
async def test_a_reached_event_resolves_at_once(waiter):
    marker = waiter.record()
    marker.event.finish()
    coroutine = waiter.wait(marker)
    with pytest.raises(StopIteration):
        coroutine.send(None)
    assert threads_of("w") == []


@pytest.mark.anyio
async def test_an_event_reached_within_the_window_needs_no_thread(waiter, monkeypatch):
    monkeypatch.setattr(poller, "WINDOW_SECONDS", 3600)
    marker = waiter.record()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(waiter.wait, marker)
        while marker.event.looks < 3:
            await anyio.lowlevel.checkpoint()
        marker.event.finish()
    assert threads_of("w") == []


@pytest.mark.anyio
async def test_many_waits_are_one_look_each_per_turn(waiter, monkeypatch):
    """One poller looks once per event, turn and wait; the waiting tasks themselves do not run."""
    monkeypatch.setattr(poller, "WINDOW_SECONDS", 3600)
    markers = [waiter.record() for _ in range(3)]
    turns = 0

    class Counting(poller.Poller):
        def _turn(self):
            nonlocal turns
            turns += 1
            super()._turn()

    monkeypatch.setattr(poller, "Poller", Counting)
    async with anyio.create_task_group() as tasks:
        for marker in markers:
            tasks.start_soon(waiter.wait, marker)
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        for marker in markers:
            # One look before it was given to the poller, one when the next was recorded, at most
            # one in each turn, and `record` looks at the oldest.
            assert marker.event.looks <= turns + 1 + len(markers)
            marker.event.finish()
    assert turns >= 10


@pytest.mark.anyio
async def test_beyond_the_window_one_thread_waits_and_wakes_all_that_are_done(waiter):
    markers = [waiter.record() for _ in range(100)]
    async with anyio.create_task_group() as tasks:
        for marker in markers:
            tasks.start_soon(waiter.wait, marker)
        await anyio.to_thread.run_sync(markers[0].event.blocked_on.wait)
        assert len(threads_of("w")) == 1
        for marker in reversed(markers):
            marker.event.finish()
    await waiter.stop()
    assert threads_of("w") == []


@pytest.mark.anyio
async def test_an_earlier_event_that_is_asked_for_later_is_not_kept_waiting(waiter):
    """The thread must not sit on a later event when an earlier one is reached."""
    early, late = waiter.record(), waiter.record()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(waiter.wait, late)
        await anyio.to_thread.run_sync(early.event.blocked_on.wait)
        with anyio.fail_after(5):
            async with anyio.create_task_group() as inner:
                inner.start_soon(waiter.wait, early)
                await anyio.wait_all_tasks_blocked()
                early.event.finish()
        late.event.finish()


@pytest.mark.anyio
async def test_a_cancelled_wait_leaves_the_event_to_the_others(waiter):
    marker = waiter.record()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(waiter.wait, marker)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as cancelled:
                cancelled.start_soon(waiter.wait, marker)
                await anyio.to_thread.run_sync(marker.event.blocked_on.wait)
                scope.cancel()
        marker.event.finish()


@pytest.mark.anyio
async def test_a_fault_ends_every_wait_recorded_so_far(waiter):
    markers = [waiter.record() for _ in range(3)]

    async def wait(marker):
        with pytest.raises(DeviceLost, match="context 'w': waiting for an event: burnt"):
            await waiter.wait(marker)

    async with anyio.create_task_group() as tasks:
        for marker in markers:
            tasks.start_soon(wait, marker)
        await anyio.to_thread.run_sync(markers[0].event.blocked_on.wait)
        markers[0].event.finish(DeviceLost("burnt"))


@pytest.mark.anyio
async def test_a_fault_within_the_window_is_raised_too(waiter, monkeypatch):
    monkeypatch.setattr(poller, "WINDOW_SECONDS", 3600)
    marker = waiter.record()

    async def wait():
        with pytest.raises(DeviceLost, match="burnt"):
            await waiter.wait(marker)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        while marker.event.looks < 3:
            await anyio.lowlevel.checkpoint()
        marker.event.finish(DeviceLost("burnt"))


@pytest.mark.anyio
async def test_a_callback_is_told_in_the_thread_or_at_once(waiter):
    told = []
    first, second = waiter.record(), waiter.record()
    waiter.when_reached(first, told.append)
    waiter.when_reached(second, told.append)
    first.event.finish()
    second.event.finish(DeviceLost("burnt"))
    await waiter.stop()
    assert told[0] is None
    waiter.when_reached(first, told.append)
    assert told[-1] is None


@pytest.mark.anyio
async def test_what_is_reached_is_forgotten_without_anybody_waiting(waiter):
    markers = []
    for _ in range(1000):
        markers.append(waiter.record())
        markers[-1].event.finish()
    assert len(waiter._unreached) <= 2


def test_a_loop_that_ends_while_one_waits_harms_nobody():
    waiter = Waiter("w", ScriptedStream())
    first = waiter.record()

    async def leave_it_waiting():
        loop = asyncio.get_running_loop()
        loop.create_task(waiter.wait(first)).add_done_callback(lambda task: task.cancelled())
        await asyncio.to_thread(first.event.blocked_on.wait)

    asyncio.run(leave_it_waiting())
    first.event.finish()

    async def go_on():
        marker = waiter.record()
        asyncio.get_running_loop().call_later(0.001, marker.event.finish)
        await asyncio.wait_for(waiter.wait(marker), 5)
        await waiter.stop()

    asyncio.run(go_on())
    assert threads_of("w") == []


class Owner:
    """Stands for what owns borrowed memory; tells when it is dropped."""

    def __init__(self, dropped):
        self._end = weakref.finalize(self, dropped.set)


def let_go(waiter):
    """Let go of an owner, as the finaliser of an alias does; return what is set when it drops."""
    dropped = threading.Event()
    waiter.let_go(Owner(dropped))
    return dropped


async def finish_all(waiter, dropped, error=None):
    """Finish every marker, those to come too, until `dropped` is set."""
    with anyio.fail_after(20):
        while not dropped.is_set():
            for marker in tuple(waiter._unreached):
                marker.event.finish(error)
            await anyio.sleep(0)


@pytest.mark.anyio
async def test_the_next_marker_covers_what_was_let_go_before_it(waiter):
    waiter.start()
    busy = waiter.record()
    waiter.when_reached(busy, lambda failure: None)
    await anyio.to_thread.run_sync(busy.event.blocked_on.wait)  # the thread itself cannot record
    before = let_go(waiter)
    marker = waiter.record()
    after = let_go(waiter)
    busy.event.finish()
    await anyio.to_thread.run_sync(marker.event.blocked_on.wait)
    assert not before.is_set()
    marker.event.finish()
    assert await anyio.to_thread.run_sync(before.wait, 20)
    assert not after.is_set()
    await finish_all(waiter, after)


@pytest.mark.anyio
async def test_a_marker_does_not_cover_what_is_let_go_while_it_is_recorded(waiter, monkeypatch):
    """The drop may come after the event: then it does not say that the stream has passed."""
    dropped = []

    def record():
        event = ScriptedEvent()
        dropped.append(let_go(waiter))
        return event

    with monkeypatch.context() as patch:
        patch.setattr(waiter._stream, "record", record)
        marker = waiter.record()
    assert marker.borrowed == []
    waiter.start()
    await finish_all(waiter, dropped[0])


@pytest.mark.anyio
async def test_an_idle_thread_records_a_marker_for_what_is_let_go(waiter):
    waiter.start()
    dropped = let_go(waiter)
    while not waiter._unreached:
        await anyio.sleep(0)
    marker = waiter._unreached[0]
    await anyio.to_thread.run_sync(marker.event.blocked_on.wait)
    assert not dropped.is_set()
    marker.event.finish()
    assert await anyio.to_thread.run_sync(dropped.wait, 20)
    assert marker.borrowed == [], "who keeps the marker keeps no memory"


@pytest.mark.anyio
async def test_while_the_stream_takes_no_marker_borrowed_memory_stays(waiter, monkeypatch):
    refused = threading.Event()

    def refuse():
        refused.set()
        raise DeviceLost("burnt")

    monkeypatch.setattr(waiter._stream, "record", refuse)
    waiter.start()
    dropped = let_go(waiter)
    assert await anyio.to_thread.run_sync(refused.wait, 20)
    assert not dropped.is_set()
    await waiter.stop()
    assert dropped.is_set()
    assert let_go(waiter).is_set(), "after the end there is nothing to wait for"


@pytest.mark.anyio
async def test_a_fault_lets_go(waiter):
    waiter.start()
    await finish_all(waiter, let_go(waiter), DeviceLost("burnt"))
