"""``ToolPool(worker="thread")``: what is its own, beside what ``new_pool`` tests for both kinds."""

from __future__ import annotations

import gc
import logging
import random
import threading
from functools import partial

import anyio
import pytest
import sample_tools
import thread_tools as tools

import asyncgpu
from asyncgpu import Runtime, Settings, ToolPool
from asyncgpu.units import GB, MB

pytestmark = pytest.mark.anyio

ThreadPool = partial(ToolPool, worker="thread")
# Whatever waits for itself would wait for ever.
LIMIT = 60


def used(rt):
    """Bytes of the first device that are in nobody's reach."""
    return 8 * 2**30 - rt.available_vram("cuda:0")


class TestWhereItRuns:
    """In a context on a GPU; on the CPU in a thread."""

    async def test_on_a_gpu_it_is_a_context_named_after_the_worker(self, rt):
        async with ThreadPool(1) as pool:
            seen = set(await pool.run(tools.Here(), range(30)))
            assert {name for _, name in seen} == {"Here[0]@cuda:0"}
            assert rt.status().contexts == ("Here[0]@cuda:0",)
        assert rt.status().contexts == ()

    async def test_all_calls_of_a_worker_come_in_one_thread_that_is_not_the_loops(self, rt):
        for tool in (tools.Here(), tools.HereOnCpu()):
            async with ThreadPool(1, cpus=1) as pool:
                seen = set(await pool.run(tool, range(30)))
                seen |= set(await pool.run(tool, range(30)))
            assert len(seen) == 1
            assert threading.get_ident() not in {thread for thread, _ in seen}

    async def test_on_the_cpu_there_is_no_context(self, rt):
        async with ThreadPool(0, cpus=2) as pool:
            assert {name for _, name in await pool.run(tools.HereOnCpu(), range(9))} == {None}

    async def test_load_run_and_close_come_in_the_same_thread(self, rt):
        seen = []
        async with ThreadPool(1) as pool:
            await pool.run(tools.Closes(seen), [1])
        assert len(seen) == 3
        assert len(set(seen)) == 1

    async def test_workers_of_one_name_have_contexts_of_their_own(self, rt):
        rt.devices.configure(allow_multiple_per_device=True)
        async with ThreadPool(1) as one, ThreadPool(1) as two:
            [(_, first)] = await one.run(tools.Limited(), [1])
            [(_, second)] = await two.run(tools.Limited(), [1])
        assert (first, second) == ("Limited[0]@cuda:0", "Limited[0]@cuda:0#2")
        rt.devices.configure(allow_multiple_per_device="auto")

    async def test_its_statistics_and_spans_are_those_of_a_worker(self, rt):
        async with ThreadPool(1) as pool:
            await pool.run(tools.Here(), [1, 2, 3])
            [slot] = pool.stats().slots
            assert (slot.items, slot.loads, slot.pid, slot.device) == (3, 1, None, "cuda:0")
            names = [span.name for span in pool.timeline.spans if span.track.endswith("Here[0]")]
        assert {"wait for a device", "load", "run 1 items"} <= set(names)

    async def test_a_session_around_the_first_caller_is_not_the_workers(self, rt):
        mine = await rt.create_context("mine", device="cuda:1")
        async with mine, ThreadPool(["cuda:0"]) as pool, mine.session():
            [(_, name)] = await pool.run(tools.Here(), [1])
        assert name == "Here[0]@cuda:0"


class TestValues:
    """Nothing is pickled."""

    async def test_items_and_answers_are_the_very_objects(self, rt):
        item = threading.Lock()
        async with ThreadPool(1) as pool:
            assert await pool.run(sample_tools.Echo(), [item]) == [item]

    async def test_a_tool_may_take_its_list_apart(self, rt):
        items = [3, 1, 2]
        async with ThreadPool(1) as pool:
            assert await pool.run(tools.TakesApart(), items) == [3, 1, 2]
        assert items == [3, 1, 2]

    async def test_the_tool_in_the_program_stays_a_description(self, rt):
        tool = sample_tools.Square()
        async with ThreadPool(1) as pool:
            await pool.run(tool, [1])
        assert not hasattr(tool, "loaded_on")


class TestErrors:
    """The same errors as from a process."""

    async def test_the_cause_is_the_exception_and_holds_no_frames(self, rt):
        async with ThreadPool(1) as pool:
            with pytest.raises(asyncgpu.ToolFailed) as caught:
                await pool.call(tools.FailsWithATensor(), 1)
            cause = caught.value.__cause__
            assert isinstance(cause, ValueError)
            assert cause.__traceback__ is None
            gc.collect()
            context = rt.get_context("FailsWithATensor[0]@cuda:0")
            assert context.usage().used == 0
        traceback = caught.value.remote_traceback
        assert "raise ValueError(len(kept))" in traceback
        assert "run_sync" not in traceback

    async def test_a_tool_that_exits_has_failed_and_the_program_goes_on(self, rt):
        async with ThreadPool(1) as pool:
            with pytest.raises(asyncgpu.ToolFailed, match="SystemExit"):
                await pool.call(tools.Exits(), 1)
            assert await pool.call(sample_tools.Square(), 2) == 4

    @pytest.mark.parametrize(
        ("attribute", "value", "named"),
        [
            ("device", "cudax2", "one GPU"),
            ("python", "/usr/bin/python3", "python="),
            ("env", {"A": "b"}, "env"),
            ("pin_visible_devices", True, "pin_visible_devices"),
        ],
    )
    async def test_what_needs_a_process_is_refused(self, rt, attribute, value, named):
        tool = tools.Here()
        setattr(tool, attribute, value)
        async with ThreadPool() as pool:
            with pytest.raises(asyncgpu.RequestError, match=named):
                await pool.run(tool, [1])

    def test_another_kind_of_worker_is_refused(self):
        with pytest.raises(asyncgpu.InvalidRequest, match="neither 'process' nor 'thread'"):
            ToolPool(worker="fiber")


class TestMemory:
    """A declared `vram` is a reservation, and a budget that is enforced; it is counted once."""

    @pytest.fixture
    def settings(self):
        return Settings(virtual_devices="2x8GiB", allow_multiple_per_device=True)

    async def test_over_its_budget_a_batch_is_split_and_an_item_fails(self, rt):
        async with ThreadPool(1) as pool:
            sizes = await pool.run(tools.Allocates(), [300] * 8)
            assert set(sizes) == {2}
            with pytest.raises(asyncgpu.ToolOutOfMemory) as caught:
                await pool.call(tools.Allocates(), 1200)
        assert caught.value.requested == 1200 * MB
        assert caught.value.available == 1 * GB
        assert caught.value.device == "cuda:0"
        assert isinstance(caught.value.__cause__, asyncgpu.VRAMBudgetExceeded)

    async def test_its_share_is_reserved_once_and_others_have_the_rest(self, rt):
        tool = tools.Limited().on("cuda:0", vram="6GiB")
        async with ThreadPool() as pool:
            await pool.run(tool, [1])
            assert used(rt) == 6 * 2**30
            async with await rt.create_context("rest", base_vram="2GiB", device="cuda:0"):
                assert await pool.run(sample_tools.Square().on("cuda:1"), [2]) == [4]
                assert used(rt) == 8 * 2**30
        assert used(rt) == 0

    async def test_inside_a_lease_it_lives_out_of_the_lease(self, rt):
        async with rt.lease("cuda:0", vram="6GiB"), ThreadPool(["cuda:0"]) as pool:
            [(_, name)] = await pool.run(tools.Limited().on("cuda:0", vram="5GiB"), [1])
            assert name == "Limited[0]@cuda:0"
            assert used(rt) == 6 * 2**30
        assert used(rt) == 0


class TestOffload:
    """Evicted to the CPU, it leaves its context; it gets another one when it is wanted again."""

    @pytest.fixture
    def settings(self):
        return Settings(virtual_devices="1x8GiB", offload_strategy="cpu")

    async def test_it_comes_back_with_the_model(self, rt):
        async with ThreadPool() as pool:
            await pool.run(tools.Weighs(), [1])
            assert rt.get_context("Weighs[0]@cuda:0").usage().used == 800 * MB
            await pool.run(tools.Limited(), [1])
            assert rt.status().contexts == ("Limited[0]@cuda:0",)
            [places] = await pool.run(tools.Weighs(), [2])
            # Loaded, moved away, moved back: each time in a context on the device.
            assert places == ["cuda:0"] * 3
            assert rt.get_context("Weighs[0]@cuda:0").usage().used == 800 * MB
            assert [slot.loads for slot in pool.stats().slots if slot.tool == "Weighs"] == [1]


class TestEnding:
    """What runs is asked to end, and abandoned if it does not."""

    async def test_a_tool_learns_that_its_call_was_cancelled(self, rt, gates):
        entered, left = gates
        async with ThreadPool(1) as pool:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pool.run, tools.UntilCancelled(entered, left), [1])
                await entered.wait()
                tasks.cancel_scope.cancel()
            with anyio.fail_after(LIMIT):
                await left.wait()
            assert await pool.run(sample_tools.Square(), [2]) == [4]

    async def test_a_cancelled_call_keeps_its_worker(self, rt, gates):
        entered, leave = gates
        tool = sample_tools.Gated(entered, leave)
        async with ThreadPool(1) as pool:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pool.run, tool, range(5))
                await entered.wait()
                tasks.cancel_scope.cancel()
            leave.open()
            await pool.run(tool, [9])
            [slot] = pool.stats().slots
            assert (slot.items, slot.loads) == (2, 1)

    async def test_after_its_grace_it_is_abandoned_and_another_one_serves(self, rt, gates):
        entered, leave = gates
        async with ThreadPool(1) as pool:
            async with anyio.create_task_group() as tasks:
                gated = sample_tools.Gated(entered, leave)
                tasks.start_soon(partial(pool.run, gated, [1], cancel_grace=0.0))
                await entered.wait()
                tasks.cancel_scope.cancel()
            assert await pool.run(sample_tools.Square(), [2]) == [4]
            assert set(rt.status().contexts) == {"Gated[0]@cuda:0", "Square[0]@cuda:0"}
            abandoned = rt.get_context("Gated[0]@cuda:0")
            leave.open()
            with anyio.fail_after(LIMIT):
                await abandoned.aclose()
            assert rt.status().contexts == ("Square[0]@cuda:0",)

    async def test_an_idle_worker_that_is_evicted_closes_its_context(self, rt):
        async with ThreadPool(1) as pool:
            await pool.run(tools.Here(), [1])
            await pool.run(sample_tools.Square(), [1])
            assert rt.status().contexts == ("Square[0]@cuda:0",)

    async def test_a_worker_whose_context_is_closed_is_replaced(self, rt):
        async with ThreadPool(1) as pool:
            await pool.run(tools.Here(), [1])
            await rt.destroy_context("Here[0]@cuda:0")
            [(_, name)] = await pool.run(tools.Here(), [1])
            assert rt.status().contexts == (name,)
            assert [slot.loads for slot in pool.stats().slots] == [2]

    async def test_old_workers_make_room_for_new_ones(self, rt):
        async with ThreadPool(1) as pool:
            await pool.run(tools.ShortLivedHere(), range(6))
            await pool.run(tools.ShortLivedHere(), [1])
            assert pool.stats().slots[0].loads >= 3


@pytest.mark.parametrize("tool", [sample_tools.Gated, sample_tools.WaitsFor])
async def test_a_runtime_closes_although_a_call_does_not_return(anyio_backend, gates, caplog, tool):
    entered, leave = gates
    stuck = tool(entered, leave) if tool is sample_tools.Gated else tool(leave).on("cpu")
    settings = Settings(virtual_devices="1x8GiB", close_timeout=0.1, worker_stop_grace=0.1)
    with anyio.fail_after(LIMIT), caplog.at_level(logging.WARNING):
        async with Runtime(settings=settings):
            pool = ThreadPool()
            await pool.__aenter__()
            with pytest.raises(TimeoutError):
                await pool.run(stuck, ["slow"], timeout=0.3)
    assert "is abandoned: its call has not returned" in caplog.text
    leave.open()


class TestInsideRun:
    """`asyncgpu.worker`, which finds the worker of its own call."""

    async def test_a_tool_calls_another_one(self, rt):
        async with ThreadPool(cpus=2) as pool:
            assert await pool.run(tools.Asks(sample_tools.Square()), [3]) == [9]
            assert await pool.run(tools.Asks(sample_tools.shout), ["a", "b"]) == ["A", "B"]
            assert {"Asks", "Square", "shout"} == {slot.tool for slot in pool.stats().slots}

    async def test_a_call_that_would_wait_for_itself_is_refused(self, rt):
        async with ThreadPool(1) as pool:
            with anyio.fail_after(LIMIT), pytest.raises(asyncgpu.ToolFailed) as caught:
                await pool.call(tools.Asks(sample_tools.Square()), 3)
        assert isinstance(caught.value.__cause__, asyncgpu.InfeasibleRequest)

    async def test_what_the_inner_tool_raises_is_raised_in_the_outer_one(self, rt):
        async with ThreadPool() as pool:
            with pytest.raises(asyncgpu.ToolFailed) as caught:
                await pool.call(tools.AsksFromTheCpu(sample_tools.Poison()), "bad")
        assert isinstance(caught.value.__cause__, asyncgpu.PartialFailure)

    async def test_while_a_tool_loads_it_is_refused(self, rt):
        async with ThreadPool(cpus=1) as pool:
            with pytest.raises(asyncgpu.ToolFailed, match="inside run"):
                await pool.call(tools.AsksWhileLoading(), 1)

    async def test_a_cancelled_call_ends_the_one_inside_it(self, rt, gates):
        entered, leave = gates
        async with ThreadPool(cpus=2) as pool:
            inner = sample_tools.Gated(entered, leave).on("cpu")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pool.call, tools.Asks(inner), 1)
                await entered.wait()
                tasks.cancel_scope.cancel()
            with anyio.fail_after(LIMIT):
                assert await pool.call(tools.Asks(sample_tools.shout), "a") == "A"
            leave.open()

    async def test_outside_of_a_call_there_is_no_worker(self, rt):
        async with ThreadPool(1) as pool:
            await pool.run(tools.Here(), [1])
            assert not asyncgpu.worker.cancelled()
            with pytest.raises(asyncgpu.RequestError, match="await tool"):
                asyncgpu.worker.call(tools.Here(), [1])


class TestTurns:
    """Turns of the device do not bring workers that call each other to a halt."""

    @pytest.fixture
    def settings(self):
        return Settings(
            virtual_devices="1x8GiB", max_concurrent_sessions=1, allow_multiple_per_device=True
        )

    async def test_a_worker_that_waits_for_another_one_on_its_device_gets_its_answer(self, rt):
        async with ThreadPool() as pool:
            with anyio.fail_after(LIMIT):
                [(_, name)] = await pool.run(tools.SmallAsks(tools.Limited()), [1])
        assert name == "Limited[0]@cuda:0"


async def test_cancels_and_evictions_at_once_leave_nothing(rt):
    chance = random.Random(7)
    answers = {}

    async def run(pool, tool):
        answers[tool.name] = await pool.run(tool, range(60), on_error="collect")

    async def run_and_cancel(pool, tool):
        with anyio.move_on_after(chance.random() / 20):
            await pool.run(tool, range(100, 160), on_error="collect", cancel_grace=0.01)

    with anyio.fail_after(LIMIT):
        async with ThreadPool() as pool, anyio.create_task_group() as tasks:
            for tool in (sample_tools.Square(), sample_tools.OtherSquare(), sample_tools.Third()):
                tasks.start_soon(run, pool, tool)
                for _ in range(3):
                    tasks.start_soon(run_and_cancel, pool, tool)
    squares = [item * item for item in range(60)]
    assert answers == dict.fromkeys(("Square", "OtherSquare", "Third"), squares)
    assert rt.status().contexts == ()
