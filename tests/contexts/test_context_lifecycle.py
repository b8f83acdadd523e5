"""From creation to the end of a context: states, closing, and what is given back."""

from __future__ import annotations

import asyncio
import threading

import anyio
import pytest

from asyncgpu.contexts.current import current_context
from asyncgpu.errors import ContextClosed, DuplicateName, InvalidRequest, NoRuntime, RequestError
from asyncgpu.policy.context_state import ContextState
from asyncgpu.policy.qos import QoSPolicy
from asyncgpu.units import GB

pytestmark = pytest.mark.anyio


async def test_it_says_what_it_is(registry):
    ctx = await registry.create(
        "whisper", max_vram="2GiB", base_vram="1GiB", qos=QoSPolicy.BURSTABLE, device="cuda:1"
    )
    assert (ctx.name, ctx.device, ctx.qos) == ("whisper", "cuda:1", QoSPolicy.BURSTABLE)
    assert (ctx.max_vram, ctx.base_vram) == (2 * GB, GB)
    assert (ctx.state, ctx.budget_enforced) == (ContextState.IDLE, True)
    usage = ctx.usage()
    assert (usage.max, usage.base, usage.reserved) == (2 * GB, GB, GB)
    assert repr(ctx) == "<ExecutionContext 'whisper' on cuda:1, idle>"
    await ctx.aclose()
    assert ctx.usage().reserved == 0


async def test_the_class_decides_the_reservation_and_the_priority(registry, shares):
    made = [
        await registry.create("g", qos=QoSPolicy.GUARANTEED, max_vram="1GiB"),
        await registry.create("b", qos=QoSPolicy.BURSTABLE, max_vram="2GiB", base_vram="1MiB"),
        await registry.create("e", qos=QoSPolicy.BEST_EFFORT, max_vram="2GiB"),
    ]
    assert [vram for _, _, vram, _ in shares.requests] == [GB, 1024**2, 0]
    priorities = [ctx.stream.priority for ctx in made]
    assert priorities == sorted(set(priorities)), "lower is more urgent"


async def test_the_registry_finds_lists_and_destroys(registry, shares):
    ctx = await registry.create("a")
    other = await registry.create("b")
    assert registry.get("a") is ctx
    assert registry.get("c") is None
    assert registry.names() == ["a", "b"]
    assert registry.contexts() == [ctx, other]
    assert await registry.destroy("a")
    assert not await registry.destroy("a")
    assert registry.names() == ["b"]
    assert [share.owner_name for share in shares.held] == ["b"]
    again = await registry.create("a")
    assert again is not ctx


async def test_a_name_is_taken_while_its_creator_waits(registry, shares):
    shares.granting = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(registry.create, "a")
        await anyio.wait_all_tasks_blocked()
        asked = len(shares.requests)
        with pytest.raises(DuplicateName, match="'a'"):
            await registry.create("a")
        assert len(shares.requests) == asked, "nothing was touched"
        assert registry.get("a") is None
        assert registry.names() == []
        assert not await registry.destroy("a")
        shares.granting.set()
    assert registry.names() == ["a"]
    with pytest.raises(DuplicateName, match="'a'"):
        await registry.create("a")


async def test_a_creator_that_gives_up_frees_the_name(registry, shares):
    shares.granting = anyio.Event()
    with pytest.raises(TimeoutError):
        await registry.create("a", timeout=0.001)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(registry.create, "a")
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    shares.granting.set()
    assert (await registry.create("a")).name == "a"


async def test_a_stream_that_cannot_be_made_gives_the_share_back(registry, shares, driver):
    driver.script.lose_device(0)
    with pytest.raises(Exception, match="scripted"):
        await registry.create("a")
    assert shares.held == []
    assert registry.names() == []


@pytest.mark.parametrize("name", ["", "  ", None, 3])
async def test_a_name_is_a_string_that_is_not_empty(registry, shares, name):
    with pytest.raises(InvalidRequest, match="name"):
        await registry.create(name)
    assert shares.requests == []


@pytest.mark.parametrize(
    "bad",
    [
        {"max_vram": 0},
        {"qos": QoSPolicy.GUARANTEED},
        {"device": "cudax2"},
        {"device": "cpu"},
        {"device": "gpu"},
        {"max_concurrent_sessions": 0},
        {"max_concurrent_sessions": True},
        {"timeout": -1},
    ],
)
async def test_a_bad_parameter_is_refused_before_anything_is_touched(registry, shares, bad):
    with pytest.raises(InvalidRequest):
        await registry.create("a", **bad)
    assert shares.requests == []
    assert registry.names() == []


async def test_the_block_closes_it(registry, shares):
    async with await registry.create("a") as ctx:
        assert registry.names() == ["a"]
    assert ctx.state is ContextState.CLOSED
    assert registry.names() == []
    assert shares.held == []
    assert ctx.stream.driver_stream.closed
    with pytest.raises(ContextClosed):
        await ctx.run_sync(int)
    await ctx.aclose()


async def test_closing_ends_its_threads(registry, new_gate):
    before = set(threading.enumerate())
    ctx = await registry.create("threads")
    gate = new_gate()
    await ctx.run_sync(int)
    async with anyio.create_task_group() as tasks:
        gate.hold(ctx)
        tasks.start_soon(ctx.synchronize)
        await anyio.to_thread.run_sync(gate.reached.wait)
        # Beyond the window, so that the waiter's thread is needed.
        while "asyncgpu threads waiter" not in {t.name for t in threading.enumerate()}:
            await anyio.sleep(0)
        gate.open()
    assert "asyncgpu threads" in {t.name for t in threading.enumerate()}
    await ctx.aclose()
    left = {t.name for t in set(threading.enumerate()) - before}
    assert not {name for name in left if name.startswith("asyncgpu threads")}


async def test_closing_drains_and_refuses_new_work(ctx, new_gate):
    gate = new_gate()
    gate.hold(ctx)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ctx.aclose)
        await anyio.wait_all_tasks_blocked()
        assert ctx.state is ContextState.IDLE
        with pytest.raises(ContextClosed):
            async with ctx.session():
                pass
        with pytest.raises(ContextClosed):
            await ctx.run_sync(int)
        gate.open()
    assert ctx.state is ContextState.CLOSED


async def test_a_timeout_says_what_still_runs_and_closing_may_be_called_again(ctx, new_gate):
    gate, stop = new_gate(), anyio.Event()

    async def holder(*, task_status):
        async with ctx.session():
            task_status.started()
            await stop.wait()

    async with anyio.create_task_group() as tasks:
        await tasks.start(holder, name="the holder")
        with pytest.raises(TimeoutError, match="'a' still runs after 0 s: session of the holder"):
            await ctx.aclose(timeout=0)
        assert ctx.state is ContextState.RUNNING
        stop.set()
    gate.hold(ctx)
    with pytest.raises(TimeoutError, match="work on its stream"):
        await ctx.aclose(timeout=0.01)
    gate.open()
    await ctx.aclose()
    assert ctx.state is ContextState.CLOSED


async def test_closing_from_many_tasks_at_once(registry, shares, new_gate):
    ctx = await registry.create("a")
    gate = new_gate()
    gate.hold(ctx)
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(ctx.aclose)
        await anyio.wait_all_tasks_blocked()
        gate.open()
    assert shares.held == []


async def test_closing_inside_ones_own_session_is_refused(ctx):
    with anyio.fail_after(5):
        async with ctx.session():
            with pytest.raises(RequestError, match="would wait for itself"):
                await ctx.aclose()
    await ctx.aclose()


async def test_a_block_left_by_cancellation_is_closed_by_the_runtime(registry, shares, new_gate):
    gate = new_gate()
    async with anyio.create_task_group() as tasks:
        held = anyio.Event()

        async def work():
            async with await registry.create("a") as ctx:
                gate.hold(ctx)
                held.set()
                await anyio.sleep_forever()

        tasks.start_soon(work)
        await held.wait()
        tasks.cancel_scope.cancel()
    assert registry.names() == ["a"], "its work is not done"
    gate.open()
    with anyio.fail_after(5):
        while shares.held:
            await anyio.sleep(0)
    assert registry.names() == []


async def test_an_idle_block_left_by_cancellation_is_closed_at_once(registry, shares):
    with anyio.CancelScope() as scope:
        async with await registry.create("a"):
            scope.cancel()
            await anyio.sleep_forever()
    assert shares.held == []
    assert registry.names() == []


async def test_lost_work_does_not_keep_a_context_open(driver, ctx, shares, new_gate):
    gate = new_gate()
    gate.hold(ctx)
    driver.script.lose_device(0)
    with anyio.fail_after(5):
        await ctx.aclose()
    assert shares.held == []


async def test_the_registry_closes_all_and_creates_no_more(registry, shares):
    for name in "abc":
        await registry.create(name)
    await registry.aclose()
    assert shares.held == []
    with pytest.raises(NoRuntime):
        await registry.create("d")


async def test_the_registry_says_which_contexts_still_run(registry, new_gate):
    a, _, c = [await registry.create(name) for name in "abc"]
    gates = [new_gate(), new_gate()]
    gates[0].hold(a)
    gates[1].hold(c)
    with pytest.raises(TimeoutError, match=r"'a' still runs.*; .*'c' still runs"):
        await registry.aclose(timeout=0.05)
    assert registry.names() == ["a", "c"]
    for gate in gates:
        gate.open()
    await registry.aclose()


async def test_a_context_created_while_the_registry_closes_is_given_back(registry, shares):
    shares.granting = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def create():
            with pytest.raises(NoRuntime):
                await registry.create("late")

        tasks.start_soon(create)
        await anyio.wait_all_tasks_blocked()
        await registry.aclose()
        shares.granting.set()
    assert shares.held == []


async def test_current_context_of_nobody_is_none():
    assert current_context() is None


@pytest.mark.parametrize("anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})])
async def test_the_loop_gets_its_own_call_soon_back(registry):
    """Put in by the first session, taken out with the last context that used it."""
    loop = asyncio.get_running_loop()
    a, b = await registry.create("a"), await registry.create("b")
    assert "call_soon" not in vars(loop)
    async with a.session():
        assert "call_soon" in vars(loop)
    async with b.session():
        pass
    await a.aclose()
    assert "call_soon" in vars(loop)
    await b.aclose()
    assert "call_soon" not in vars(loop)


@pytest.mark.parametrize("anyio_backend", [("trio", {})])
async def test_trio_gets_rid_of_the_instrument(registry):
    import trio

    instruments = trio._core._run.GLOBAL_RUN_CONTEXT.runner.instruments
    before = set(instruments.get("_all", ()))
    async with await registry.create("a") as ctx, ctx.session():
        assert len(set(instruments["_all"]) - before) == 1
    assert set(instruments.get("_all", ())) == before
