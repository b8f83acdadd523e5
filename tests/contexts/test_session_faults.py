"""A stream that cannot be applied or undone ends in `DeviceLost`, never in a hang."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import anyio
import pytest

from asyncgpu.contexts.current import current_context
from asyncgpu.errors import DeviceLost

pytestmark = pytest.mark.anyio

SECOND = 1.0


async def a_step_and_forever():
    """The session is applied once more; what then sleeps has to be cancelled."""
    await anyio.sleep(0)
    await anyio.sleep_forever()


async def session_that_breaks(ctx, arm, then=a_step_and_forever):
    """Enter a session, prepare the failure with `arm`, and go on with `then`."""
    async with ctx.session():
        arm()
        await then()


@pytest.fixture
def break_undo(driver, monkeypatch):
    """Let the next undo do its work and then raise."""
    undo, armed = driver.undo, []

    def breakable(token):
        undo(token)
        if armed:
            armed.clear()
            raise RuntimeError("scripted: undo")

    monkeypatch.setattr(driver, "undo", breakable)
    return lambda: armed.append(True)


async def test_an_injected_failure_ends_in_device_lost_within_a_second(driver, ctx, where):
    with anyio.fail_after(SECOND), pytest.raises(DeviceLost, match=r"'a'.*scripted fault"):
        await session_that_breaks(ctx, driver.script.fail_next_apply)
    assert where() is None
    assert current_context() is None


async def test_the_step_still_runs_and_the_task_is_cancelled(driver, ctx):
    seen = []

    async def body():
        try:
            await a_step_and_forever()
        except BaseException as error:
            seen.append(isinstance(error, anyio.get_cancelled_exc_class()))
            raise

    with anyio.fail_after(SECOND), pytest.raises(DeviceLost):
        await session_that_breaks(ctx, driver.script.fail_next_apply, body)
    assert seen == [True]


async def test_a_body_that_swallows_the_cancellation_still_gets_device_lost(driver, ctx):
    async def careless():
        with suppress(BaseException):
            await a_step_and_forever()

    with anyio.fail_after(SECOND), pytest.raises(DeviceLost):
        await session_that_breaks(ctx, driver.script.fail_next_apply, careless)


async def test_a_failure_in_the_last_step_is_raised_too(driver, ctx):
    step = anyio.lowlevel.cancel_shielded_checkpoint
    with anyio.fail_after(SECOND), pytest.raises(DeviceLost):
        await session_that_breaks(ctx, driver.script.fail_next_apply, step)


async def test_a_failure_on_leaving_leaves_no_cancellation_behind(ctx, break_undo):
    async def no_step():
        pass

    for _ in range(3):
        with pytest.raises(DeviceLost, match="scripted: undo"):
            await session_that_breaks(ctx, break_undo, no_step)
        await anyio.sleep(0)
        await anyio.lowlevel.checkpoint()


async def test_a_failure_in_the_first_step_is_raised_by_entering(driver, ctx, where):
    driver.script.fail_next_apply()
    entered = False
    with anyio.fail_after(SECOND), pytest.raises(DeviceLost):
        async with ctx.session():
            entered = True
    assert not entered
    assert where() is None
    await anyio.sleep(0)
    async with ctx.session():
        """The failure was one, not a state."""


async def test_a_failing_undo_is_raised_too(ctx, break_undo, where):
    with anyio.fail_after(SECOND), pytest.raises(DeviceLost, match="scripted: undo"):
        await session_that_breaks(ctx, break_undo)
    assert where() is None


async def test_a_failure_in_a_childs_step_ends_the_session(driver, ctx):
    async def child():
        driver.script.fail_next_apply()
        await a_step_and_forever()

    async def parent():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)
            await anyio.sleep_forever()

    with anyio.fail_after(SECOND), pytest.raises(DeviceLost):
        await session_that_breaks(ctx, int, parent)


async def test_a_failure_ends_the_innermost_session_only_if_it_is_caught(registry, driver, where):
    a, b = await registry.create("a"), await registry.create("b")
    async with a.session():
        with anyio.fail_after(SECOND), pytest.raises(DeviceLost, match="'b'"):
            await session_that_breaks(b, driver.script.fail_next_apply)
        assert where() == a.stream.id
        await anyio.sleep(0)
        assert where() == a.stream.id
    assert where() is None


async def test_neighbours_notice_nothing(registry, driver, where, monkeypatch):
    a, b = await registry.create("a"), await registry.create("b")
    apply, lost = driver.apply, []

    def fail_for_a(stream, **kwargs):
        if stream is a.stream.driver_stream:
            raise RuntimeError("scripted: apply")
        return apply(stream, **kwargs)

    monkeypatch.setattr(driver, "apply", fail_for_a)

    async def neighbour():
        async with b.session():
            while len(lost) < 3:
                assert where() == b.stream.id
                await anyio.sleep(0)

    with anyio.fail_after(SECOND):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(neighbour)
            for _ in range(3):
                with pytest.raises(DeviceLost, match="scripted: apply") as caught:
                    async with a.session():
                        pass
                lost.append(caught.value)


@pytest.mark.parametrize("anyio_backend", [("trio", {})])
async def test_on_trio_an_outer_cancellation_goes_before_the_fault(driver, ctx):
    with anyio.fail_after(SECOND), anyio.CancelScope() as scope:
        async with ctx.session():
            scope.cancel()
            driver.script.fail_next_apply()
            await a_step_and_forever()
    assert scope.cancelled_caught
    await anyio.sleep(0)


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})])
async def test_on_asyncio_an_outer_cancellation_goes_before_the_fault(driver, ctx):
    async def victim():
        async with ctx.session():
            driver.script.fail_next_apply()
            asyncio.current_task().cancel("mine")
            await a_step_and_forever()

    task = asyncio.create_task(victim())
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(SECOND):
            await task
    assert task.cancelled()


async def test_after_a_fault_the_context_can_be_used_and_closed(driver, ctx, where):
    with pytest.raises(DeviceLost):
        await session_that_breaks(ctx, driver.script.fail_next_apply)
    async with ctx.session():
        assert where() == ctx.stream.id
    with anyio.fail_after(SECOND):
        await ctx.aclose()


async def test_a_task_that_outlived_its_session_is_reported(driver, ctx, caplog):
    left, stop = anyio.Event(), anyio.Event()

    async def child():
        await left.wait()
        driver.script.fail_next_apply()
        await anyio.sleep(0)
        await stop.wait()

    async with anyio.create_task_group() as tasks:
        async with ctx.session():
            tasks.start_soon(child)
            await anyio.sleep(0)
        with caplog.at_level(logging.ERROR, "asyncgpu"):
            left.set()
            for _ in range(5):
                await anyio.sleep(0)
        stop.set()
    assert "context 'a': a task that outlived its session" in caplog.text


async def test_the_fault_of_run_and_of_run_sync(driver, ctx):
    async def fn():
        driver.script.fail_next_apply()
        await a_step_and_forever()

    with anyio.fail_after(SECOND), pytest.raises(DeviceLost):
        await ctx.run(fn)
    called = []
    driver.script.fail_next_apply()
    with pytest.raises(DeviceLost):
        await ctx.run_sync(called.append, 1)
    assert called == [], "work that would go to another stream is not begun"
    driver.script.fail_next_apply()
    with pytest.raises(DeviceLost):
        ctx.bind(called.append)(1)
    driver.script.fail_next_apply()
    with pytest.raises(DeviceLost), ctx.session(synchronize=False):
        called.append(1)
    assert called == []


async def test_failed_work_is_raised_at_the_exit(driver, ctx):
    def put_failing_work():
        driver.script.fail_next_work(0)
        ctx.stream.driver_stream.enqueue(int)

    with anyio.fail_after(SECOND), pytest.raises(DeviceLost, match="scripted"):
        await session_that_breaks(ctx, put_failing_work, anyio.lowlevel.checkpoint)


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})])
async def test_on_asyncio_the_cancellation_is_taken_back(driver, ctx):
    task = asyncio.current_task()
    for _ in range(3):
        with pytest.raises(DeviceLost):
            await session_that_breaks(ctx, driver.script.fail_next_apply)
        assert task.cancelling() == 0


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})])
async def test_on_asyncio_a_detached_child_is_cancelled_rather_than_run_elsewhere(driver, ctx):
    left = asyncio.Event()

    async def child():
        await left.wait()
        driver.script.fail_next_apply()
        await a_step_and_forever()

    async with ctx.session():
        task = asyncio.create_task(child())
        await asyncio.sleep(0)
    left.set()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(SECOND):
            await task
