"""How workers end: asked to, by accident, or with their program. Nothing of them stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import anyio
import pytest
from conftest import process_exists
from worker_tools import (
    Calls,
    ClosesLoudly,
    Echo,
    UntilCancelled,
    Waits,
    end_process,
    kill_process,
    stubborn_child,
)

import asyncgpu
from asyncgpu.errors import WorkerDied

pytestmark = pytest.mark.anyio

ROOT = Path(asyncgpu.__file__).parents[1]
HERE = Path(__file__).parent


async def until_gone(*pids: int, within: float = 10) -> None:
    """Wait for the end of processes that are not our children: the kernel tells of it nowhere."""
    with anyio.fail_after(within):
        while any(map(process_exists, pids)):
            await anyio.sleep(0.005)


# ---------------------------------------------------------------------------- by accident


async def test_an_exit_in_mid_request_is_told_with_its_code_and_last_words(start):
    channel = await start(Calls())
    error = (await channel.submit([[end_process, 7]])).error
    assert isinstance(error, WorkerDied)
    assert error.worker == "worker-0"
    assert error.exit_code == 7
    assert error.stderr[-1] == "the last words"
    assert not channel.alive


async def test_a_signal_is_told_with_the_line_that_was_never_ended(start):
    channel = await start(Calls())
    error = (await channel.submit([[kill_process]])).error
    assert error.exit_code == -signal.SIGKILL
    assert error.stderr == ("no newline at the end",)


async def test_all_that_is_pending_is_answered_and_what_was_done_is_kept(start, gate):
    channel = await start(Waits(gate))
    done = await channel.submit(["first"])
    promises = [channel.submit([item]) for item in ("wait", "behind it", "behind that")]
    await gate.heard()
    channel.kill()
    with anyio.fail_after(10):
        errors = [(await promise).error for promise in promises]
    assert done.error is None
    assert [type(error) for error in errors] == [WorkerDied] * 3
    assert len({id(error) for error in errors}) == 3


async def test_replies_sent_before_the_end_are_delivered(start):
    channel = await start(Calls())
    promises = [channel.submit([[len, "ab"]]) for _ in range(50)]
    promises.append(channel.submit([[end_process, 1]]))
    with anyio.fail_after(10):
        replies = [await promise for promise in promises]
    assert [reply.value for reply in replies[:-1]] == [[2]] * 50
    assert isinstance(replies[-1].error, WorkerDied)


async def test_requests_after_the_end_are_answered_at_once(start):
    channel = await start(Echo())
    channel.kill()
    assert isinstance((await channel.submit([1])).error, WorkerDied)
    await channel.wait_exited()
    assert isinstance((await channel.submit([1])).error, WorkerDied)
    assert isinstance((await channel.load(Echo(), ["cpu"])).error, WorkerDied)
    with pytest.raises(WorkerDied):
        await channel.statistics()
    channel.kill()
    await channel.stop()


async def test_exit_callbacks_are_called_once_also_when_they_come_late(start):
    channel = await start(Echo())
    ends = []

    def fails(error):
        raise RuntimeError("a callback's own bug")

    channel.on_exit(fails)
    channel.on_exit(ends.append)
    os.kill(channel.pid, signal.SIGTERM)
    with anyio.fail_after(10):
        await channel.wait_exited()
    channel.on_exit(ends.append)
    assert [error.exit_code for error in ends] == [-signal.SIGTERM] * 2


async def test_descendants_do_not_outlive_a_worker_that_dies(start, gate):
    channel = await start(Calls())
    (child,) = (await channel.submit([[stubborn_child, gate]])).value
    await gate.heard()
    os.kill(channel.pid, signal.SIGKILL)
    await until_gone(child)
    with anyio.fail_after(10):
        await channel.wait_exited()


# --------------------------------------------------------------------------------- asked to


async def test_stop_closes_the_tool(start, gate):
    channel = await start(ClosesLoudly(gate))
    await channel.stop()
    assert await gate.heard() == b"closed"
    assert not process_exists(channel.pid)


async def test_stop_lets_the_running_request_end_and_skips_the_others(start, gate):
    channel = await start(UntilCancelled(gate))
    running, queued = channel.submit([1]), channel.submit([2])
    await gate.heard()
    await channel.stop(grace=30)
    assert (await running).value == ["cancelled"]
    assert "cancelled before it started" in str((await queued).error)


async def test_stop_kills_what_does_not_end_within_its_grace(start, gate):
    channel = await start(Waits(gate))
    running = channel.submit(["wait"])
    await gate.heard()
    with anyio.fail_after(0.1 + 1):
        await channel.stop(grace=0.1)
    assert isinstance((await running).error, WorkerDied)
    assert not process_exists(channel.pid)


async def test_stop_is_bounded_even_with_a_descendant_that_will_not_go(start, gate):
    channel = await start(Calls())
    (child,) = (await channel.submit([[stubborn_child, gate]])).value
    await gate.heard()
    with anyio.fail_after(2 + 1):
        await channel.stop()
    await until_gone(child, within=1)


async def test_stop_may_be_called_by_several_and_again(start):
    channel = await start(Echo())
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(channel.stop)
        await channel.stop()


async def test_a_stop_that_is_cancelled_kills(start, gate):
    channel = await start(Waits(gate))
    channel.submit(["wait"])
    await gate.heard()
    with anyio.move_on_after(0.05):
        await channel.stop(grace=60)
    with anyio.fail_after(10):
        await channel.wait_exited()


# ------------------------------------------------------------------------ with the program

PROGRAM = """
    import sys, anyio
    sys.path[:0] = [{root!r}, {here!r}]
    from asyncgpu.ports import WorkerSpec
    from asyncgpu.workers.process import ProcessTransport
    from worker_tools import Calls, Echo, spin_forever

    async def main():
        channel = await ProcessTransport().start(WorkerSpec(name="orphan"))
        await channel.load(Calls(), ["cpu"])
        {work}
        print(channel.pid, flush=True)
        await anyio.sleep_forever()

    anyio.run(main)
"""


@pytest.mark.parametrize(
    "work",
    [
        pytest.param("pass", id="idle"),
        pytest.param("channel.submit([[spin_forever]])", id="busy and holding the GIL"),
    ],
)
async def test_when_the_program_is_killed_its_workers_go_within_two_seconds(anyio_backend, work):
    source = textwrap.dedent(PROGRAM).format(root=str(ROOT), here=str(HERE), work=work)
    with anyio.fail_after(30):
        async with await anyio.open_process([sys.executable, "-c", source]) as program:
            worker = int(await program.stdout.receive())
            assert process_exists(worker)
            program.send_signal(signal.SIGKILL)
            await until_gone(worker, within=2)


def test_without_the_kernels_help_the_control_thread_ends_a_busy_worker():
    """Where ``F_SETSIG`` does not exist, the end of the control lane is what tells."""
    program = textwrap.dedent(
        """
        import os, signal, socket, sys, threading, time
        sys.path.insert(0, {root!r})
        from asyncgpu.workers.blocking_lane import BlockingLane
        from asyncgpu.workers.child_control import ControlThread
        os.setsid()
        ControlThread(BlockingLane(int(sys.argv[1])), None, None, None).start()
        print("busy", flush=True)
        while True:
            sum(range(1000))
        """
    ).format(root=str(ROOT))
    ours, theirs = os.pipe()
    worker = subprocess.Popen(
        [sys.executable, "-c", program, str(ours)], pass_fds=[ours], stdout=subprocess.PIPE
    )
    with worker:
        assert worker.stdout.readline() == b"busy\n"
        os.close(ours)
        os.close(theirs)
        assert worker.wait(2) == -signal.SIGKILL
