"""What a call to a worker costs beside the least it could cost, in one run.

Two questions, each answered as a ratio, because the machine's own speed changes from hour to hour:

* a warm tiny call, beside a bare asyncio protocol on a socketpair to a child that does nothing but
  unpickle, pickle and send back;
* an array there and back, in GB/s counting both ways, beside plain copies of warm memory.

Rounds are interleaved, and every figure is a median. Run: ``python -m benchmarks.worker_calls``,
with ``--loop uvloop`` or ``--loop trio`` for the other event loops (the bare call needs asyncio).
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import itertools
import pickle
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import anyio
import numpy as np

from asyncgpu.ports import WorkerSpec
from asyncgpu.workers.channel import ProcessChannel
from asyncgpu.workers.process import ProcessTransport

HEADER = struct.Struct("<IQ")
BARE_CHILD = """
import pickle, socket, struct, sys
sock, header = socket.socket(fileno=int(sys.argv[1])), struct.Struct("<IQ")
stream = sock.makefile("rb", buffering=1 << 16)
while head := stream.read(header.size):
    size, request = header.unpack(head)
    body = pickle.dumps(pickle.loads(stream.read(size)), 5)
    sock.sendall(header.pack(len(body), request) + body)
"""


class Echo:
    """Gives back what it gets."""

    def load(self, device):
        pass

    def run(self, items):
        return items

    def close(self):
        pass


class Bare(asyncio.Protocol):
    """The least a call can be: frames, pickle and futures on a socket."""

    def __init__(self):
        self.ids = itertools.count()
        self.pending = {}
        self.buffer = b""

    def connection_made(self, transport):
        self.transport = transport

    def call(self, value):
        body = pickle.dumps(value, 5)
        request = next(self.ids)
        future = self.pending[request] = asyncio.get_running_loop().create_future()
        self.transport.write(HEADER.pack(len(body), request) + body)
        return future

    def data_received(self, data):
        self.buffer += data
        position = 0
        while len(self.buffer) - position >= HEADER.size:
            size, request = HEADER.unpack_from(self.buffer, position)
            end = position + HEADER.size + size
            if end > len(self.buffer):
                break
            value = pickle.loads(self.buffer[position + HEADER.size : end])
            self.pending.pop(request).set_result(value)
            position = end
        self.buffer = self.buffer[position:]


def start_bare_child() -> socket.socket:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", BARE_CHILD, str(theirs.fileno())]
    subprocess.Popen(command, pass_fds=(theirs.fileno(),))
    theirs.close()
    return ours


async def start_bare() -> Bare:
    loop = asyncio.get_running_loop()
    _, bare = await loop.create_connection(Bare, sock=start_bare_child())
    return bare


async def time_calls(call: Callable[[], Awaitable[object]], count: int) -> list[float]:
    """Return microseconds of each of `count` calls, one after the other."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        await call()
        times.append((time.perf_counter() - began) * 1e6)
    return times


async def tiny_calls(channel: ProcessChannel, rounds: int) -> None:
    bare = await start_bare() if asyncio._get_running_loop() else None
    contenders = {"asyncgpu": lambda: channel.submit([1])}
    if bare is not None:
        contenders["bare"] = lambda: bare.call([1])
    medians = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            medians[name].append(statistics.median(await time_calls(call, 500)))
    print("one warm tiny call, p50, microseconds")
    for name, values in medians.items():
        print(f"  {name:10} {statistics.median(values):8.1f}")
    if bare is not None:
        ratios = [ours / least for ours, least in zip(*medians.values(), strict=True)]
        print(f"  ratio      {statistics.median(ratios):8.2f}")
        await pipelined(channel, bare, rounds)
        bare.transport.close()


async def pipelined(channel: ProcessChannel, bare: Bare, rounds: int, count: int = 10_000) -> None:
    rates = {"asyncgpu": [], "bare": []}
    for _ in range(rounds):
        for name, call in (("asyncgpu", channel.submit), ("bare", bare.call)):
            began = time.perf_counter()
            await asyncio.gather(*[call([index]) for index in range(count)])
            rates[name].append(count / (time.perf_counter() - began))
    print(f"{count} tiny calls at once, one worker, calls/s")
    for name, values in rates.items():
        print(f"  {name:10} {statistics.median(values):8.0f}")


async def batches(channel: ProcessChannel, rounds: int, count: int = 10_000) -> None:
    items = list(range(count))
    ours, least = [], []
    for _ in range(rounds):
        ours += await time_calls(lambda: channel.submit(items), 3)
        began = time.perf_counter()
        for _ in range(2):
            pickle.loads(pickle.dumps(items, 5))
        least.append((time.perf_counter() - began) * 1e6)
    print(f"one batch of {count} tiny items, there and back, items/s")
    print(f"  asyncgpu   {count / statistics.median(ours) * 1e6:8.0f}")
    print(f"  pickle     {count / statistics.median(least) * 1e6:8.0f}   twice, in this process")


async def arrays(channel: ProcessChannel, rounds: int) -> None:
    print("an array there and back, GB/s counting both ways")
    for mebibytes in (1, 16, 128):
        array = np.random.default_rng(0).integers(0, 255, mebibytes << 20, np.uint8)
        ours, least = [], []
        for _ in range(rounds):
            times = await time_calls(lambda array=array: channel.submit([array]), 5)
            ours.append(2 * array.nbytes / statistics.median(times) / 1e3)
            least.append(copy_speed(array))
        ratio = statistics.median(o / c for o, c in zip(ours, least, strict=True))
        print(
            f"  {mebibytes:4} MiB  asyncgpu {statistics.median(ours):6.2f}   "
            f"two copies {statistics.median(least):6.2f}   ratio {ratio:5.2f}"
        )


def copy_speed(array: np.ndarray) -> float:
    """Return GB/s of one copy each way between warm buffers: no exchange can beat it."""
    other = np.ones_like(array)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        ctypes.memmove(other.ctypes.data, array.ctypes.data, array.nbytes)
        ctypes.memmove(array.ctypes.data, other.ctypes.data, array.nbytes)
        times.append(time.perf_counter() - began)
    return 2 * array.nbytes / statistics.median(times) / 1e9


async def starts(transport: ProcessTransport, rounds: int) -> None:
    ours, least = [], []
    for index in range(rounds):
        began = time.perf_counter()
        channel = await transport.start(WorkerSpec(name=f"start-{index}"))
        ours.append(time.perf_counter() - began)
        await channel.stop()
        began = time.perf_counter()
        await anyio.run_process([sys.executable, "-c", "pass"])
        least.append(time.perf_counter() - began)
    print("from nothing to the handshake, milliseconds")
    print(f"  asyncgpu   {statistics.median(ours) * 1e3:8.1f}")
    print(f"  python     {statistics.median(least) * 1e3:8.1f}   `python -c pass`, to its end")


async def main(rounds: int) -> None:
    transport = ProcessTransport()
    try:
        channel = await transport.start(WorkerSpec(name="echo"))
        assert (await channel.load(Echo(), ["cpu"])).error is None
        await tiny_calls(channel, rounds)
        await batches(channel, rounds)
        await arrays(channel, rounds)
        await starts(transport, rounds)
    finally:
        await transport.aclose()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", choices=["asyncio", "uvloop", "trio"], default="asyncio")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    if arguments.loop == "trio":
        anyio.run(main, arguments.rounds, backend="trio")
    else:
        options = {"use_uvloop": arguments.loop == "uvloop"}
        anyio.run(main, arguments.rounds, backend_options=options)
