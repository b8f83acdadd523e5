"""A gate works from event loops, threads, virtual streams and other processes."""

from __future__ import annotations

import gc
import pickle
import sys
import tempfile
import threading
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from asyncgpu.drivers.virtual.driver import VirtualDriver
from asyncgpu.errors import InvalidRequest
from asyncgpu.testing import Gate, gate

LIMIT = 10.0


@pytest.fixture
def pipes(monkeypatch, tmp_path):
    """List the pipes of the gates made in this test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return lambda: list(tmp_path.iterdir())


def open_descriptors():
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@pytest.mark.anyio
async def test_many_tasks_wait_and_go_on_together():
    passed = []

    async def pass_through(name):
        await closed.wait()
        passed.append(name)

    with gate() as closed:
        async with anyio.create_task_group() as group:
            for name in range(10):
                group.start_soon(pass_through, name)
            await anyio.wait_all_tasks_blocked()
            assert passed == []
            assert not closed.is_open()
            closed.open()
        assert sorted(passed) == list(range(10))
        assert closed.is_open()
        await closed.wait()


@pytest.mark.anyio
async def test_a_cancelled_wait_leaves_nothing_behind():
    with gate() as closed:
        before = open_descriptors()
        with anyio.move_on_after(0.001) as scope:
            await closed.wait()
        assert scope.cancelled_caught
        assert open_descriptors() == before
        closed.open()
        await closed.wait()


@pytest.mark.anyio
async def test_waiting_for_an_open_gate_lets_others_run():
    ran = []

    async def other():
        ran.append(1)

    with gate() as opened:
        opened.open()
        async with anyio.create_task_group() as group:
            group.start_soon(other)
            for _ in range(3):
                await opened.wait()
            assert ran == [1]


@pytest.mark.anyio
async def test_a_thread_opens_for_a_task():
    with gate() as closed:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, closed.open)
            with anyio.fail_after(LIMIT):
                await closed.wait()


def test_a_thread_waits():
    with gate() as closed:
        thread = threading.Thread(target=closed.wait_sync)
        thread.start()
        assert thread.is_alive()
        closed.open()
        thread.join(LIMIT)
        assert not thread.is_alive()


def test_a_blocking_wait_has_a_timeout():
    with gate() as closed, pytest.raises(TimeoutError, match=r"0\.001 s"):
        closed.wait_sync(timeout=0.001)


WORKER = """
import pickle, sys
first, second = pickle.loads(bytes.fromhex(sys.argv[1]))
first.open()
second.wait_sync()
print(first, second)
assert "anyio" not in sys.modules
"""


@pytest.mark.anyio
async def test_a_worker_process_opens_one_gate_and_waits_for_another():
    with gate() as entered, gate() as released:
        sent = pickle.dumps((entered, released)).hex()
        command = [sys.executable, "-c", WORKER, sent]
        async with await anyio.open_process(command, stderr=sys.stderr) as process:
            with anyio.fail_after(2 * LIMIT):
                await entered.wait()
            assert process.returncode is None
            released.open()
            with anyio.fail_after(LIMIT):
                assert await process.wait() == 0
                assert process.stdout is not None
                assert b"<Gate open> <Gate open>" in await process.stdout.receive()


def test_a_copy_is_the_same_gate_until_its_maker_closes_it_and_then_open():
    with gate() as closed:
        copy = pickle.loads(pickle.dumps(closed))
        late = pickle.loads(pickle.dumps(closed))
        assert isinstance(copy, Gate)
        assert not copy.is_open()
        copy.open()
        assert closed.is_open()
    assert late.is_open()
    late.wait_sync()
    late.open()


def test_closing_a_copy_opens_the_gate():
    with gate() as closed:
        with pickle.loads(pickle.dumps(closed)):
            assert not closed.is_open()
        assert closed.is_open()


def test_leaving_the_block_lets_waiters_through_and_removes_the_pipe(pipes):
    with gate() as closed:
        assert len(pipes()) == 1
        thread = threading.Thread(target=closed.wait_sync)
        thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive()
    assert pipes() == []
    closed.close()
    assert closed.is_open()


def test_a_forgotten_gate_is_removed(pipes):
    forgotten = gate()
    assert len(pipes()) == 1
    del forgotten
    gc.collect()
    assert pipes() == []


def test_opening_has_no_limit():
    with gate() as opened:
        for _ in range(70_000):
            opened.open()
        assert opened.is_open()


def test_a_gate_holds_a_virtual_stream():
    driver = VirtualDriver.from_spec("2x8GiB")
    stream = driver.create_stream(0, level=1)
    with gate() as closed:
        closed.hold(stream)
        event = stream.record()
        assert not event.done()
        closed.open()
        event.synchronize()
    driver.close()


def test_closing_the_driver_opens_a_gate_that_holds_its_stream():
    driver = VirtualDriver.from_spec("2x8GiB")
    stream = driver.create_stream(0, level=1)
    with gate() as reached, gate() as closed:
        stream.enqueue(reached.open)
        closed.hold(stream)
        reached.wait_sync(LIMIT)
        driver.close()
        assert not [t for t in threading.enumerate() if "stream" in t.name]


def test_only_a_virtual_stream_can_be_held():
    with gate() as closed, pytest.raises(InvalidRequest, match="only virtual devices"):
        closed.hold("cuda:0")
