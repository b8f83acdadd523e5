"""Starting workers: the handshake, and every way in which it does not come about."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading

import anyio
import pytest
from conftest import our_children, process_exists
from worker_tools import Calls, Echo, WhoAmI, environment

from asyncgpu.errors import WorkerDied, WorkerError, WorkerStartTimeout
from asyncgpu.ports import WorkerSpec
from asyncgpu.workers.handshake import GREETING
from asyncgpu.workers.wire import Kind, encode

pytestmark = pytest.mark.anyio


@pytest.fixture
def stuck(tmp_path):
    """An environment in which an interpreter never gets past its start, and says so."""
    os.mkfifo(tmp_path / "never")
    (tmp_path / "sitecustomize.py").write_text(
        f"import os\nos.write(2, b'importing\\n')\nopen({str(tmp_path / 'never')!r}).read()\n"
    )
    return {"PYTHONPATH": str(tmp_path)}


def interpreter(tmp_path, body: str) -> str:
    """A program that stands in for python."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


async def test_a_worker_leads_its_own_process_group(start):
    channel = await start(WhoAmI())
    (ids,) = (await channel.submit([0])).value
    assert ids == (channel.pid, channel.pid, channel.pid)
    assert channel.alive
    assert channel.name == "worker-0"


async def test_the_environment_is_overlaid(start):
    channel = await start(Calls(), env={"ASYNCGPU_TEST": "yes"})
    names = [[environment, "ASYNCGPU_TEST"], [environment, "PATH"]]
    assert (await channel.submit(names)).value == ["yes", os.environ["PATH"]]


async def test_several_start_at_once(transport):
    async with anyio.create_task_group() as tasks:
        for index in range(3):
            tasks.start_soon(transport.start, WorkerSpec(name=f"worker-{index}"))
    assert len(our_children()) >= 3


async def test_one_that_is_stuck_in_an_import_is_given_up(transport, stuck):
    before = our_children()
    with pytest.raises(WorkerStartTimeout, match=r"within 0.4 s\n.*importing"):
        await transport.start(WorkerSpec(name="stuck", env=stuck, start_timeout=0.4))
    assert our_children() == before


async def test_a_start_that_is_cancelled_leaves_nothing(transport, stuck):
    before = our_children()
    with anyio.move_on_after(0.3) as scope:
        await transport.start(WorkerSpec(name="stuck", env=stuck))
    assert scope.cancelled_caught
    assert our_children() == before


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_start_cancelled_the_native_way_leaves_nothing(transport):
    for steps in range(8):
        start = asyncio.ensure_future(transport.start(WorkerSpec(name="unwanted")))
        for _ in range(steps):
            await asyncio.sleep(0)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
    # A thread that was in the middle of a start ends what it started; `aclose` waits for it.
    await transport.aclose()


async def test_one_that_ends_before_the_handshake_tells_why(transport, tmp_path):
    python = interpreter(tmp_path, "echo no libpython here >&2; exit 7")
    with pytest.raises(WorkerDied) as caught:
        await transport.start(WorkerSpec(name="broken", python=python))
    assert caught.value.exit_code == 7
    assert caught.value.stderr == ("no libpython here",)


async def test_an_interpreter_that_is_not_there_is_named(transport):
    with pytest.raises(WorkerError, match="/nowhere/python"):
        await transport.start(WorkerSpec(name="lost", python="/nowhere/python"))


@pytest.mark.parametrize(
    ("says", "kind", "complaint"),
    [
        pytest.param(
            encode(Kind.HELLO, 0, b"asyncgpu 999"),
            WorkerError,
            f"'asyncgpu 999' and this program '{GREETING.decode()}'",
            id="another version",
        ),
        pytest.param(b"welcome to the BSD shell", WorkerDied, "not a frame", id="no frames"),
    ],
)
async def test_one_that_is_not_of_our_kind_is_refused(transport, tmp_path, says, kind, complaint):
    program = (
        "import os, re, signal, sys;"
        r"work = int(re.search(r'main\((\d+)', sys.argv[-1])[1]);"
        f"os.write(work, {says!r}); signal.pause()"
    )
    (tmp_path / "impostor.py").write_text(program)
    python = interpreter(tmp_path, f'exec {sys.executable} {tmp_path}/impostor.py "$@"')
    with pytest.raises(kind, match=complaint):
        await transport.start(WorkerSpec(name="impostor", python=python))


async def test_another_interpreter_is_given_our_sources_but_not_our_libraries(start):
    # The same python, asked for by another name, stands for another one.
    folder, _, name = sys.executable.rpartition("/")
    channel = await start(Echo(), python=f"{folder}/./{name}")
    assert (await channel.submit([1])).value == [1]


async def test_without_pidfds_a_thread_waits_for_the_end(transport, start, monkeypatch):
    monkeypatch.delattr(os, "pidfd_open")
    channel = await start(Echo())
    assert (await channel.submit([1])).value == [1]
    os.kill(channel.pid, signal.SIGKILL)
    with anyio.fail_after(10):
        await channel.wait_exited()
    assert (await channel.submit([1])).error.exit_code == -signal.SIGKILL


async def test_a_start_needs_none_of_the_programs_own_threads(transport):
    over = threading.Event()
    limiter = anyio.to_thread.current_default_thread_limiter()
    monopolists, limiter.total_tokens = limiter.total_tokens, 1
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, over.wait)
            await anyio.lowlevel.checkpoint()
            with anyio.fail_after(10):
                await transport.start(WorkerSpec(name="urgent"))
            over.set()
    finally:
        limiter.total_tokens = monopolists


async def test_after_aclose_nothing_starts(transport):
    await transport.aclose()
    with pytest.raises(WorkerError, match="closed"):
        await transport.start(WorkerSpec(name="late"))


async def test_aclose_ends_workers_that_are_starting(transport, stuck):
    errors = []

    async def start():
        try:
            await transport.start(WorkerSpec(name="stuck", env=stuck))
        except WorkerError as error:
            errors.append(error)

    before = our_children()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(start)
        with anyio.fail_after(10):
            while our_children() == before:
                await anyio.lowlevel.checkpoint()
            await transport.aclose()
    assert len(errors) == 1
    assert our_children() == before


async def test_aclose_kills_what_runs(transport, start):
    channel = await start(Echo())
    await transport.aclose()
    assert not channel.alive
    assert not process_exists(channel.pid)


async def test_a_worker_that_is_killed_from_outside_is_forgotten(transport, start):
    channel = await start(Echo())
    os.kill(channel.pid, signal.SIGKILL)
    with anyio.fail_after(10):
        await channel.wait_exited()
    await transport.aclose()
