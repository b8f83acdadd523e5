"""`asyncgpu.worker.call`: a tool that calls another one from inside its own `run`."""

from __future__ import annotations

import anyio
import nesting_tools as tools
import pytest
import sample_tools

import asyncgpu
from asyncgpu import Settings, ToolPool, worker

pytestmark = pytest.mark.anyio

# Whatever waits for itself would wait for ever.
LIMIT = 60


def test_outside_a_worker_it_is_an_error_that_says_what_to_write():
    with pytest.raises(asyncgpu.RequestError, match="await tool"):
        worker.call(sample_tools.Square(), [1])


async def test_a_tool_calls_another_one_of_its_pool(rt):
    async with ToolPool() as pool:
        assert await pool.run(tools.Calls(sample_tools.Square()), [3]) == [10]
        assert {slot.tool for slot in pool.stats().slots} == {"Calls", "Square"}


async def test_calls_of_calls_work(rt):
    tool = tools.SquareOnCpu()
    for _ in range(4):
        tool = tools.CallsOnCpu(tool)
    async with ToolPool(0, cpus=2) as pool:
        assert await pool.run(tool, [3]) == [13]


async def test_a_warm_worker_of_the_called_tool_is_used_again(rt):
    async with ToolPool(0, cpus=2) as pool:
        [first] = await pool.run(tools.AsksTwice(), [1])
        assert await pool.run(tools.AsksTwice(), [2]) == [first]
        assert await pool.run(tools.PidOnCpu(), [0]) == [first[0]]


class TestWhoAnswers:
    """The pool, block or runtime around the calling worker."""

    async def test_a_persist_block_keeps_the_called_tool_warm(self, rt):
        async with asyncgpu.persist():
            [first] = await tools.CallsOnCpu(tools.PidOnCpu())([1])
            [second] = await tools.CallsOnCpu(tools.PidOnCpu())([2])
            assert first == second

    async def test_outside_of_both_it_is_a_worker_for_this_call(self, rt):
        assert await tools.CallsOnCpu(tools.SquareOnCpu())([3]) == [10]

    async def test_a_default_pool_answers_the_workers_of_the_runtime(self, rt):
        handle = await asyncgpu.get_tool(tools.CallsOnCpu(tools.SquareOnCpu()))
        async with ToolPool(0, cpus=1, default=True) as pool:
            assert await handle.run([3]) == [10]
            assert [slot.tool for slot in pool.stats().slots] == ["SquareOnCpu"]

    async def test_for_a_tool_kept_by_itself_it_is_what_is_around_that(self, rt):
        async with ToolPool(0, cpus=1) as pool:
            kept = tools.CallsOnCpu(tools.SquareOnCpu())
            async with asyncgpu.persist_tool(kept) as handle:
                assert await handle.run([3]) == [10]
            assert [slot.tool for slot in pool.stats().slots] == ["SquareOnCpu"]


class TestValues:
    """What crosses."""

    async def test_arrays_go_there_and_back_through_shared_memory(self, rt):
        async with ToolPool(0, cpus=2) as pool:
            assert await pool.run(tools.ManyArrays(), [30]) == [120]

    async def test_threads_of_a_tool_may_call_at_once(self, rt):
        async with ToolPool(0, cpus=2) as pool:
            answers = await pool.run(tools.CallsFromThreads(), range(20))
        assert answers == [item * 2 for item in range(20)]

    async def test_no_items_no_answers(self, rt):
        async with ToolPool(0, cpus=1) as pool:
            assert await pool.call(tools.ManyArrays(), 0) == 0

    async def test_an_answer_that_cannot_be_sent_is_an_error_of_this_call(self, rt):
        async with ToolPool(0, cpus=2) as pool:
            [error] = await pool.run(tools.CatchesOnCpu(sample_tools.Square), [3])
        assert isinstance(error, asyncgpu.InvalidRequest)
        assert "is a class" in str(error)


class TestErrors:
    """A call that fails raises inside `run`, as it would in the program."""

    async def test_the_remote_traceback_arrives(self, rt):
        async with ToolPool(0, cpus=2) as pool:
            poison = sample_tools.Poison().on("cpu")
            [error] = await pool.run(tools.CatchesOnCpu(poison), ["bad"])
        assert isinstance(error, asyncgpu.PartialFailure)
        assert isinstance(error.errors[0], asyncgpu.ToolFailed)
        assert "a bad item" in error.errors[0].remote_traceback

    async def test_a_worker_that_dies_below_is_an_error_and_no_hang(self, rt):
        async with ToolPool(0, cpus=2) as pool:
            [error] = await pool.run(tools.CatchesOnCpu(tools.Dies()), [1])
        assert isinstance(error.errors[0], asyncgpu.WorkerDied)

    async def test_an_error_nobody_catches_reaches_the_caller_with_its_cause(self, rt):
        async with ToolPool(0, cpus=2) as pool:
            with pytest.raises(asyncgpu.PartialFailure) as caught:
                await pool.run(tools.CallsOnCpu(sample_tools.Poison().on("cpu")), ["bad"])
        outer = caught.value.errors[0]
        assert outer.tool == "CallsOnCpu"
        assert isinstance(outer.__cause__, asyncgpu.PartialFailure)
        assert "a bad item" in str(outer)

    async def test_while_a_tool_loads_it_is_refused(self, rt):
        async with ToolPool(0, cpus=1) as pool:
            with pytest.raises(asyncgpu.ToolFailed, match="inside run"):
                await pool.run(tools.CallsWhileLoading(), [1])


class TestNoWaitForOneself:
    """Reuse where that is right, else an error at once; never a hang."""

    @pytest.fixture
    def settings(self):
        return Settings(virtual_devices="1x8GiB")

    async def test_the_only_gpu_is_the_callers_own(self, rt):
        async with ToolPool() as pool:
            with anyio.fail_after(LIMIT):
                [error] = await pool.run(tools.Catches(sample_tools.Square()), [3])
        assert isinstance(error, asyncgpu.InfeasibleRequest)
        assert "wait for itself" in str(error)

    async def test_a_tool_of_the_cpu_needs_nothing_of_the_callers(self, rt):
        async with ToolPool() as pool:
            assert await pool.run(tools.Calls(tools.SquareOnCpu()), [3]) == [10]

    async def test_a_tool_that_calls_itself_needs_another_device(self, rt):
        async with ToolPool() as pool:
            with anyio.fail_after(LIMIT), pytest.raises(asyncgpu.PartialFailure) as caught:
                await pool.run(tools.CountdownOnGpu(), [1])
        assert isinstance(caught.value.errors[0].__cause__, asyncgpu.InfeasibleRequest)

    @pytest.mark.parametrize("cpus", [1, 2])
    async def test_on_the_cpu_the_seat_of_one_that_waits_is_lent(self, rt, cpus):
        async with ToolPool(0, cpus=cpus) as pool:
            with anyio.fail_after(LIMIT):
                answers = await pool.run(tools.Countdown(), [3, 2, 3])
        assert [len(set(pids)) for pids in answers] == [4, 3, 4]

    async def test_two_tools_may_call_each_other_on_the_cpu(self, rt):
        async with ToolPool(0, cpus=1) as pool:
            with anyio.fail_after(LIMIT):
                assert await pool.run(tools.PingPong().on("cpu"), [4, 3]) == [4, 3]

    async def test_two_tools_that_call_each_other_on_one_gpu_are_told(self, rt):
        async with ToolPool() as pool:
            with anyio.fail_after(LIMIT), pytest.raises(asyncgpu.PartialFailure) as caught:
                await pool.run(tools.PingPong(), [2])
        assert "wait for itself" in str(caught.value)

    async def test_a_recursion_without_an_end_is_ended(self, rt, monkeypatch):
        monkeypatch.setattr("asyncgpu.tools.waits.DEEPEST", 3)
        async with ToolPool(0, cpus=1) as pool:
            with anyio.fail_after(LIMIT), pytest.raises(asyncgpu.PartialFailure) as caught:
                await pool.run(tools.Endless(), [1])
        assert "call itself without an end" in str(caught.value)

    async def test_inside_a_lease_both_tools_live_in_the_lease(self, rt):
        with anyio.fail_after(LIMIT):
            async with rt.lease("cuda:0"):
                assert await tools.Calls(sample_tools.Square())([3]) == [10]

    async def test_others_who_hold_nothing_go_on_waiting(self, rt):
        """A nested call that is refused takes nobody along who waits for the same tool."""
        answers = []

        async def square(pool):
            answers.extend(await pool.run(sample_tools.Square(), [5]))

        async with ToolPool() as pool, anyio.create_task_group() as tasks:
            with anyio.fail_after(LIMIT):
                tasks.start_soon(square, pool)
                errors = await pool.run(tools.Catches(sample_tools.Square()), [3])
        assert answers == [25]
        assert len(errors) == 1


class TestTwoGpus:
    """Several callers, each with a device."""

    async def test_two_callers_that_hold_both_devices_do_not_wait_for_each_other(self, rt):
        """The last one to ask is told; the other then has its device."""
        tool = tools.Catches(sample_tools.Square())
        tool.max_batch = 1
        with anyio.fail_after(LIMIT):
            async with ToolPool() as pool:
                outcomes = []

                async def run(item):
                    try:
                        outcomes.extend(await pool.run(tool, [item]))
                    except asyncgpu.PartialFailure as failure:
                        outcomes.extend(failure.errors.values())

                async with anyio.create_task_group() as tasks:
                    for item in range(4):
                        tasks.start_soon(run, item)
        assert len(outcomes) == 4

    async def test_a_tool_that_calls_itself_uses_the_other_device(self, rt):
        async with ToolPool() as pool:
            with anyio.fail_after(LIMIT):
                [pids] = await pool.run(tools.CountdownOnGpu(), [1])
        assert len(set(pids)) == 2


class TestPacking:
    """Declared memory beside the caller's, on the caller's own device."""

    @pytest.fixture
    def settings(self):
        return Settings(virtual_devices="1x8GiB", allow_multiple_per_device=True)

    async def test_a_tool_beside_its_caller(self, rt):
        async with ToolPool() as pool:
            tool = tools.Calls(sample_tools.Square().on("cuda", vram="2GiB"))
            with anyio.fail_after(LIMIT):
                assert await pool.run(tool.on("cuda", vram="2GiB"), [3]) == [10]

    async def test_more_than_there_is_beside_the_caller_is_refused(self, rt):
        async with ToolPool() as pool:
            tool = tools.Catches(sample_tools.Square().on("cuda", vram="6GiB"))
            with anyio.fail_after(LIMIT):
                [error] = await pool.run(tool.on("cuda", vram="3GiB"), [3])
        assert isinstance(error, asyncgpu.InfeasibleRequest)


class TestEnding:
    """A nested call ends with the call that it is part of."""

    async def test_cancelling_the_outer_call_cancels_the_nested_one(self, rt, gates):
        entered, leave = gates
        with asyncgpu.testing.gate() as cancelled:
            inner = tools.SaysWhetherCancelled(entered, leave, cancelled)
            async with ToolPool(0, cpus=2) as pool:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(pool.run, tools.CallsOnCpu(inner), [1])
                    await entered.wait()
                    tasks.cancel_scope.cancel()
                # The tool that waited has its answer, an error, and serves others again.
                assert await pool.run(tools.CallsOnCpu(tools.SquareOnCpu()), [3]) == [10]
                leave.open()
                with anyio.fail_after(LIMIT):
                    await cancelled.wait()

    async def test_an_items_deadline_kills_a_worker_that_waits(self, rt, gates):
        entered, leave = gates
        inner = sample_tools.Gated(entered, leave).on("cpu")
        async with ToolPool(0, cpus=2) as pool:
            with anyio.fail_after(LIMIT), pytest.raises(asyncgpu.PartialFailure) as caught:
                await pool.run(tools.CallsOnCpu(inner), [1], item_timeout=0.5)
            assert isinstance(caught.value.errors[0], TimeoutError)
            leave.open()
            assert await pool.run(tools.SquareOnCpu(), [3]) == [9]

    async def test_the_outer_deadline_holds_for_all_of_it(self, rt, gates):
        entered, leave = gates
        inner = sample_tools.Gated(entered, leave).on("cpu")
        async with ToolPool(0, cpus=2) as pool:
            with pytest.raises(TimeoutError):
                await pool.run(tools.CallsOnCpu(inner), [1], timeout=1)
            leave.open()

    async def test_closing_the_pool_ends_both(self, rt, gates):
        entered, leave = gates
        inner = sample_tools.Gated(entered, leave).on("cpu")
        failures = []

        async def run(pool):
            try:
                await pool.run(tools.CallsOnCpu(inner), [1])
            except asyncgpu.AsyncGPUError as error:
                failures.append(error)

        async with anyio.create_task_group() as tasks, ToolPool(0, cpus=2) as pool:
            tasks.start_soon(run, pool)
            await entered.wait()
        assert len(failures) == 1

    async def test_a_full_queue_does_not_refuse_what_was_admitted(self, rt, gates):
        entered, leave = gates
        tool = tools.CallsWhenOpen(entered, leave)
        answers = []

        async def run(pool):
            answers.extend(await pool.run(tool, [2, 3]))

        async with ToolPool(0, cpus=1, max_queue=1) as pool, anyio.create_task_group() as tasks:
            tasks.start_soon(run, pool)
            await entered.wait()
            with pytest.raises(asyncgpu.AdmissionRejected):
                await pool.run(tool, [4])
            leave.open()
        assert answers == [4, 9]
