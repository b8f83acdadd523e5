"""How many acquire/release pairs a second the device table decides, and how that grows.

    python benchmarks/device_table.py [--devices 1000] [--seconds 2.0]

All devices are held and a queue of waiters stands before them. One pair is: the longest holder
releases its device, which goes to the first waiter, and a new request joins the queue. So a pair
is two decisions, and the time includes making both inputs and reading the actions. The bound below
is the least that any such queue must do for a pair: one push to and one pop from a heap of as many
waiters, and two calls.

Each number is the median over many short slices of process time, and in brackets the best slice,
which is what a machine with nothing else to do comes to.
"""

from __future__ import annotations

import argparse
import heapq
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from asyncgpu.policy.device_actions import Grant
from asyncgpu.policy.device_inputs import ClaimKind, Released, Requested, Shape
from asyncgpu.policy.device_spec import parse_device
from asyncgpu.policy.device_table import DeviceTable
from asyncgpu.policy.qos import QoSPolicy

CLASSES = list(QoSPolicy)
SIZES = [100, 1000, 10_000]
SLICE = 100


@dataclass
class Mix:
    """What the requests look like."""

    name: str
    shapes: list[Shape]
    packing: bool = False


def mixes(devices: int) -> list[Mix]:
    lease, one = ClaimKind.LEASE, parse_device("cuda")
    return [
        Mix("any one", [Shape(lease, one)]),
        Mix("any one, 8 groups", [Shape(lease, one, group=f"tool {i}") for i in range(8)]),
        Mix("each its own", [Shape(lease, parse_device(f"cuda:{i}")) for i in range(devices)]),
        Mix("any one, packing", [Shape(lease, one, vram=1 << 30)], packing=True),
    ]


class Crowd:
    """A full table with a queue before it."""

    def __init__(self, mix: Mix, devices: int, waiters: int) -> None:
        self.table = DeviceTable(dict.fromkeys(range(devices), 1 << 30), packing=mix.packing)
        self.shapes = mix.shapes
        self.claims = 0
        self.holders: deque[int] = deque()
        for _ in range(devices + waiters):
            self.request()

    def request(self) -> None:
        self.claims += 1
        number = self.claims
        request = Requested(number, self.shapes[number % len(self.shapes)], CLASSES[number % 3])
        self.note(self.table.handle(request, number * 1e-4))

    def pair(self) -> None:
        self.note(self.table.handle(Released(self.holders.popleft()), self.claims * 1e-4))
        self.request()

    def note(self, actions: list) -> None:
        for action in actions:
            if type(action) is Grant:
                self.holders.append(action.claim)


def bare_heap(waiters: int) -> Callable[[], None]:
    """Return a pair of calls around a heap of that many waiters."""
    heap = [(float(i), i) for i in range(waiters)]
    numbers = iter(range(waiters, 1 << 62))

    def release() -> int:
        return heapq.heappop(heap)[1]

    def request() -> None:
        number = next(numbers)
        heapq.heappush(heap, (float(number), number))

    def pair() -> None:
        release()
        request()

    return pair


def measure(pair: Callable[[], None], seconds: float) -> str:
    """Return the rate of `pair` in thousands a second: median, and the best slice."""
    rates = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.process_time()
        for _ in range(SLICE):
            pair()
        rates.append(SLICE / (time.process_time() - start) / 1000)
    return f"{statistics.median(rates):.0f}k ({max(rates):.0f}k)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each number")
    options = parser.parse_args()

    def row(name: str, cells: list[str]) -> None:
        print(f"{name:24}" + "".join(f"{cell:>18}" for cell in cells))

    print(f"acquire/release pairs a second, {options.devices} devices")
    row("waiters", [f"{size:,}" for size in SIZES])
    for mix in mixes(options.devices):
        crowds = [Crowd(mix, options.devices, size) for size in SIZES]
        row(mix.name, [measure(crowd.pair, options.seconds) for crowd in crowds])
    row("bound: a bare heap", [measure(bare_heap(size), options.seconds) for size in SIZES])


if __name__ == "__main__":
    main()
