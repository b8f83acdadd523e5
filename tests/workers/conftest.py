"""A transport on each event loop, and the check that nothing of it is left."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

# Workers import `worker_tools` by name; they are given this process's import path.
sys.path.append(str(Path(__file__).parent))

from worker_tools import Echo, Gate

from asyncgpu.ports import WorkerSpec
from asyncgpu.workers.process import ProcessTransport

CODECS = ("asyncgpu.drivers.codec:TorchCodec",)


def our_children() -> set[int]:
    children: set[int] = set()
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has just ended
            children.update(map(int, (task / "children").read_text().split()))
    return children


def our_threads() -> set[str]:
    names = {thread.name for thread in threading.enumerate()}
    return {name for name in names if name.startswith("asyncgpu-")}


def our_descriptors() -> Counter[str]:
    """How many sockets, pipes, arenas, process handles and files are open."""
    kinds: Counter[str] = Counter()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            kinds[str(link.readlink()).partition(":[")[0]] += 1
    return kinds


def process_exists(pid: int) -> bool:
    """Whether it runs; a zombie that its new parent has yet to reap does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
async def transport(anyio_backend):
    """An open transport; afterwards no process, thread or descriptor of it is left."""
    children, threads, descriptors = our_children(), our_threads(), our_descriptors()
    transport = ProcessTransport(codecs=CODECS, arena_bytes=1 << 29)
    yield transport
    with anyio.fail_after(10):
        await transport.aclose()
    assert our_children() == children
    assert our_threads() == threads
    if our_descriptors() != descriptors:
        gc.collect()  # results that the test still held, in a cycle
    assert our_descriptors() == descriptors


@pytest.fixture
def start(transport):
    """Start a worker, with a tool if one is given."""

    async def start(tool=None, devices=("cpu",), **options):
        with anyio.fail_after(30):
            channel = await transport.start(WorkerSpec(**{"name": "worker-0", **options}))
            if tool is not None:
                assert (await channel.load(tool, devices)).error is None
        return channel

    return start


@pytest.fixture
async def echo(start):
    return await start(Echo())


@pytest.fixture
def gate(tmp_path):
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.close()
