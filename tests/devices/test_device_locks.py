"""Two programs that use asyncgpu do not take the same GPU at the same time."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
from functools import partial

import anyio
import pytest

from asyncgpu.devices.locks import DeviceLocks, device_locks
from asyncgpu.policy.qos import QoSPolicy
from asyncgpu.ports import DeviceInfo
from asyncgpu.units import GB

pytestmark = pytest.mark.anyio

PROGRAM = """
import os, sys, anyio
from pathlib import Path
from asyncgpu.devices.locks import DeviceLocks
from asyncgpu.devices.manager import DeviceManager
from asyncgpu.ports import DeviceInfo
from asyncgpu.settings import Settings

async def main(folder, device):
    inventory = [DeviceInfo(i, "GPU", f"uuid-{i}", 1 << 33) for i in range(2)]
    locks = DeviceLocks({i: f"uuid-{i}" for i in range(2)}, Path(folder))
    async with anyio.create_task_group() as tasks:
        manager = DeviceManager(inventory, settings=Settings(), clock=anyio.current_time,
                                start_soon=tasks.start_soon, locks=locks)
        tasks.start_soon(manager.look_out)
        tasks.start_soon(tell_of_the_queue, manager.watch())
        async with manager.lease(device) as lease:
            print(lease.device, flush=True)
            await anyio.to_thread.run_sync(sys.stdin.readline)
        print("done", flush=True)
        manager.close()

async def tell_of_the_queue(watch):
    async for change in watch:
        if change.kind == "queued":
            print("queued", flush=True)

anyio.run(main, *sys.argv[1:])
"""


class Program:
    """Another process that asks for a lease. It prints "queued", its device, and "done"."""

    def __init__(self, folder, device):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder), device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def line(self):
        return (await anyio.to_thread.run_sync(self.process.stdout.readline)).strip()

    def finish(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)


@pytest.fixture
def program(tmp_path):
    """Start programs: ``program("cuda:0")``; ``await it.line()`` for the device it has got."""
    started = []

    def start(device):
        started.append(Program(tmp_path, device))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.process.communicate()


class Rival:
    """The lock of another program, without the program: a file opened once more is as foreign."""

    def __init__(self, folder, index):
        folder.chmod(0o700)
        self.file = os.open(folder / f"uuid-{index}.lock", os.O_RDWR | os.O_CREAT, 0o600)

    def take(self):
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def give_back(self):
        fcntl.flock(self.file, fcntl.LOCK_UN)


@pytest.fixture
def rival(tmp_path):
    """``rival(0)``: another program that may take ``cuda:0``."""
    opened = []

    def new(index):
        opened.append(Rival(tmp_path, index))
        return opened[-1]

    yield new
    for each in opened:
        os.close(each.file)


async def test_a_device_of_another_program_is_passed_over_or_waited_for(
    manage, asking, program, tmp_path
):
    other = program("cuda:0")
    assert await other.line() == "cuda:0"
    async with manage(2, locks=tmp_path) as manager, anyio.create_task_group() as tasks:
        async with manager.lease("cuda") as lease:
            assert lease.device == "cuda:1"
        specific = asking(tasks, manager.lease("cuda:0").__aenter__)
        await anyio.wait_all_tasks_blocked()
        status = manager.status()
        who = f"process {other.process.pid}"
        assert [device.taken_by for device in status.devices] == [who, None]
        assert f"cuda:0 is used by another program ({who})" in status.queue[0].reason
        assert status.queue[0].estimated_wait is None
        other.finish()
        assert (await specific()).device == "cuda:0"
        assert await other.line() == "done"
        assert manager.status().devices[0].taken_by is None


async def test_a_killed_program_frees_its_devices_at_once(manage, asking, program, tmp_path):
    other = program("cudax2")
    assert await other.line() == "cuda:0"
    async with manage(2, locks=tmp_path) as manager, anyio.create_task_group() as tasks:
        both = asking(tasks, manager.lease("cudax2").__aenter__)
        await anyio.wait_all_tasks_blocked()
        assert not both.done.is_set()
        other.kill()
        await anyio.to_thread.run_sync(other.process.wait)
        with anyio.fail_after(1):
            assert (await both()).devices == ("cuda:0", "cuda:1")


async def test_another_program_waits_for_this_one(manage, program, tmp_path):
    async with manage(2, locks=tmp_path) as manager:
        async with manager.lease("cuda:0"), manager.lease("cuda:1"):
            other = program("cuda")
            assert await other.line() == "queued"
        assert await other.line() in ("cuda:0", "cuda:1")
        other.finish()
        assert await other.line() == "done"


async def test_nobody_is_evicted_in_vain_for_what_another_program_has(
    manage, owner, asking, rival, tmp_path
):
    other = rival(0)
    assert other.take()
    async with manage(2, locks=tmp_path) as manager, anyio.create_task_group() as tasks:
        idle = await manager.acquire("cuda", owner=owner("warm"))
        idle.mark_idle()
        assert idle.device == "cuda:1"
        both = asking(tasks, partial(manager.acquire, "cudax2", owner=owner("both")))
        await anyio.wait_all_tasks_blocked()
        assert not idle.evicting
        other.give_back()
        assert (await both()).devices == ("cuda:0", "cuda:1")
        assert idle.released


async def test_a_lock_is_had_from_the_first_holder_to_the_last(manage, owner, rival, tmp_path):
    other = rival(0)
    async with manage(1, locks=tmp_path) as manager:
        assert other.take()
        other.give_back()
        first, second = [
            await manager.reserve(0, owner_name=name, vram=GB, qos=QoSPolicy.BURSTABLE)
            for name in ("first", "second")
        ]
        assert not other.take()
        first.release()
        assert not other.take()
        second.release()
        assert other.take()


async def test_a_device_handed_over_within_a_program_stays_locked(
    manage, owner, asking, rival, tmp_path
):
    other = rival(0)
    async with manage(1, locks=tmp_path) as manager, anyio.create_task_group() as tasks:
        first = await manager.acquire("cuda", owner=owner("first"))
        second = asking(tasks, partial(manager.acquire, "cuda", owner=owner("second")))
        await anyio.wait_all_tasks_blocked()
        first.release()
        assert not other.take()
        (await second()).release()
        assert other.take()


async def test_who_gives_up_waiting_for_another_program_leaves_no_trace(
    manage, asking, rival, tmp_path
):
    other = rival(0)
    assert other.take()
    async with manage(1, locks=tmp_path) as manager, anyio.create_task_group() as tasks:
        with pytest.raises(TimeoutError, match="used by another program"):
            async with manager.lease("cuda", timeout=0.01):
                pass
        waiter = asking(tasks, manager.lease("cuda").__aenter__)
        await anyio.wait_all_tasks_blocked()
        waiter.scope.cancel()
        await waiter()
        other.give_back()
        async with manager.lease("cuda", timeout=0):
            assert not other.take()
        assert other.take()


async def test_the_queue_is_kept_while_another_program_has_the_device(
    manage, asking, rival, tmp_path
):
    other = rival(0)
    assert other.take()
    order = []

    async def use(manager, name, qos):
        async with manager.lease("cuda", qos=qos):
            order.append(name)

    async with manage(1, locks=tmp_path) as manager:
        async with anyio.create_task_group() as tasks:
            for name, qos in [
                ("late", QoSPolicy.BEST_EFFORT),
                ("first", QoSPolicy.GUARANTEED),
                ("second", QoSPolicy.GUARANTEED),
            ]:
                tasks.start_soon(use, manager, name, qos)
                await anyio.wait_all_tasks_blocked()
            assert order == []
            other.give_back()
        assert order == ["first", "second", "late"]


async def test_watchers_hear_that_another_program_has_a_device(manage, rival, tmp_path):
    assert rival(0).take()
    async with manage(2, locks=tmp_path) as manager:
        watch = manager.watch()
        async with manager.lease("cuda"):
            pass
        change = await anext(watch)
        assert (change.kind, change.devices) == ("taken", ("cuda:0",))
        assert (await anext(watch)).devices == ("cuda:1",)


# ------------------------------------------------------------------------------ the locks alone


def test_runtimes_of_one_process_share_a_lock(tmp_path, rival):
    other = rival(0)
    first, second = (DeviceLocks({0: "uuid-0"}, tmp_path) for _ in range(2))
    assert first.take([0]).ours == second.take([0]).ours == (0,)
    first.close()
    assert not other.take()
    second.give_back([0])
    assert other.take()
    assert set(first.take([0]).taken) == {0}


def test_a_cleaned_up_file_is_no_lock(tmp_path, rival):
    other = rival(0)
    assert other.take()
    (tmp_path / "uuid-0.lock").unlink()
    locks = DeviceLocks({0: "uuid-0"}, tmp_path)
    assert locks.take([0]).ours == (0,)
    # Who opened the old file before it was removed, and locked it after that, looks again.
    locks.close()


def test_a_child_of_a_fork_does_not_keep_the_lock(tmp_path, rival):
    other = rival(0)
    locks = DeviceLocks({0: "uuid-0"}, tmp_path)
    locks.take([0])
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    # Closed, not unlocked, as the kernel does it at the end of a process.
    locks.close()
    assert other.take()
    os.close(writing)
    os.waitpid(child, 0)
    os.close(reading)


@pytest.mark.parametrize("spoil", ["file", "link", "open to others"])
def test_a_folder_that_is_not_ours_alone_is_not_trusted(tmp_path, caplog, spoil):
    folder = tmp_path / "locks"
    if spoil == "file":
        folder.write_text("")
    elif spoil == "link":
        folder.symlink_to(tmp_path, target_is_directory=True)
    else:
        folder.mkdir()
        folder.chmod(0o777)
    locks = DeviceLocks({0: "uuid-0", 1: "uuid-1"}, folder)
    with caplog.at_level(logging.WARNING, "asyncgpu.devices"):
        assert locks.take([0, 1]).ours == (0, 1)
    [record] = caplog.records
    assert "ASYNCGPU_DEVICE_LOCKS" in record.getMessage()
    assert list(tmp_path.glob("*/*.lock")) == []
    locks.close()


def test_devices_that_only_this_program_sees_have_no_locks(tmp_path):
    own = DeviceInfo(0, "virtual", "VIRTUAL-1-0", GB, physical=False)
    locks = device_locks([own])
    assert locks.take([0]).ours == (0,)
    assert not any(path.name.startswith("VIRTUAL-1-0") for path in locks._directory.glob("*"))
