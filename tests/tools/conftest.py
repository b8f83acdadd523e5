"""A runtime on two virtual GPUs, and the invariants that hold after every scenario."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from asyncgpu import Runtime, Settings, ToolPool
from asyncgpu.testing import gate


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def child_processes() -> set[int]:
    children = set()
    for thread in Path(f"/proc/{os.getpid()}/task").iterdir():
        with suppress(FileNotFoundError):  # the thread ended while we looked
            children.update(map(int, (thread / "children").read_text().split()))
    return children


@pytest.fixture
def settings():
    """Overridden by tests that need others."""
    return Settings(virtual_devices="2x8GiB")


@pytest.fixture
async def rt(anyio_backend, settings):
    """An open runtime; afterwards no process, thread or descriptor of it is left."""
    children, threads, descriptors = child_processes(), threading.active_count(), open_descriptors()
    async with Runtime(settings=settings) as runtime:
        yield runtime
        for device in runtime.devices.status().devices:
            assert len(device.holders) <= 1 or settings.allow_multiple_per_device
    assert child_processes() <= children
    assert threading.active_count() <= threads + ANYIO_THREADS
    assert open_descriptors() <= descriptors + FIRST_TIME


@pytest.fixture(params=["process", "thread"])
def new_pool(request):
    """`ToolPool` with workers of either kind, which behave alike."""
    return partial(ToolPool, worker=request.param)


# anyio keeps its worker threads for reuse; they are not ours to end.
ANYIO_THREADS = 8
# What a process opens once and keeps: /dev/null, the entropy source. A leak of a runtime is more.
FIRST_TIME = 2


@pytest.fixture
def gates():
    """Two closed gates: one for a tool to say that it runs, one to let it go on."""
    with gate() as entered, gate() as leave:
        yield entered, leave
