"""What tools print goes to the log, and can neither stop nor fool the protocol."""

from __future__ import annotations

import logging
import os

import anyio
import pytest
from worker_tools import Calls, Echo, Gate, write

from asyncgpu.workers.wire import Kind, encode

pytestmark = pytest.mark.anyio


def flood(megabytes):
    for _ in range(megabytes * 16):
        os.write(1, b"x" * 65536)


@pytest.fixture
def records(caplog):
    caplog.set_level(logging.INFO, logger="asyncgpu.worker")
    return lambda: [record for record in caplog.records if record.name == "asyncgpu.worker"]


async def test_lines_are_logged_with_the_workers_name(start, records):
    channel = await start(Calls())
    await channel.submit([[print, "hello"], [write, 2, b"careful\n"]])
    await channel.stop()
    # Of two pipes, nobody can tell which was written first.
    assert {(r.worker, r.output, r.levelname, r.getMessage()) for r in records()} == {
        ("worker-0", "stdout", "INFO", "[worker-0] hello"),
        ("worker-0", "stderr", "WARNING", "[worker-0] careful"),
    }


async def test_lines_arrive_while_the_tool_runs(start, records, gate):
    channel = await start(PrintsAndWaits(gate))
    promise = channel.submit([1])
    await gate.heard()
    with anyio.fail_after(10):
        while not records():
            await anyio.lowlevel.checkpoint()
    assert records()[0].getMessage() == "[worker-0] at work"
    gate.open()
    await promise


class PrintsAndWaits(Echo):
    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def run(self, items):
        os.write(1, b"at work\n")
        self.gate.wait()
        return items


async def test_noise_without_a_newline_holds_nothing_up(start, records):
    channel = await start(Calls())
    reply = await channel.submit([[write, 1, b"noise from a native library"]])
    assert reply.value == [None]
    await channel.stop()
    assert [record.getMessage() for record in records()] == [
        "[worker-0] noise from a native library"
    ]


async def test_lines_that_look_like_frames_are_lines(start):
    channel = await start(Calls())
    imitation = encode(Kind.DONE, 2, b"\x80\x05\x4b\x01.")
    await channel.submit([[write, 1, imitation], [write, 2, imitation]])
    assert (await channel.submit([[len, "ab"]])).value == [2]


async def test_a_flood_is_bounded_and_leaves_the_loop_alone(start, records):
    channel = await start(Calls())
    with anyio.fail_after(30):
        assert (await channel.submit([[flood, 2]])).value == [None]
    await channel.stop()
    assert max(len(record.getMessage()) for record in records()) < 9000


async def test_errors_carry_the_last_lines_only(start):
    channel = await start(Calls())
    lines = "".join(f"line {index}\n" for index in range(1000)).encode()
    error = (await channel.submit([[write, 2, lines], [os._exit, 3]])).error
    assert len(error.stderr) == 50
    assert error.stderr[-1] == "line 999"


async def test_a_crash_leaves_its_stack(start):
    channel = await start(Calls())
    error = (await channel.submit([[crash]])).error
    assert error.exit_code < 0
    assert any("Segmentation fault" in line for line in error.stderr)
    assert any("in crash" in line for line in error.stderr)


def crash():
    import ctypes

    ctypes.string_at(0)
