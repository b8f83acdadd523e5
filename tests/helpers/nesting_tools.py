"""Tools that call other tools, importable by name in worker processes."""

from __future__ import annotations

import os

import sample_tools

import asyncgpu
from asyncgpu import worker


class Calls(asyncgpu.Tool):
    """Adds 1 to what another tool answers."""

    deterministic = False

    def __init__(self, inner: asyncgpu.Tool) -> None:
        self.inner = inner

    def run(self, items):
        return [answer + 1 for answer in worker.call(self.inner, items)]


class CallsOnCpu(Calls):
    """The same, on the CPU."""

    device = "cpu"


class OtherCalls(Calls):
    """A second tool that calls."""


class CallsWhenOpen(asyncgpu.Tool):
    """Squares ints by calling, once its gate is open."""

    device = "cpu"
    deterministic = False
    max_batch = 1

    def __init__(self, entered, leave) -> None:
        self.entered = entered
        self.leave = leave

    def run(self, items):
        self.entered.open()
        self.leave.wait_sync()
        return worker.call(SquareOnCpu(), items)


class SquareOnCpu(sample_tools.Square):
    """Squares ints on the CPU."""

    device = "cpu"


class PidOnCpu(asyncgpu.Tool):
    """Answers with its process."""

    device = "cpu"
    deterministic = False

    def run(self, items):
        return [os.getpid()] * len(items)


class AsksTwice(asyncgpu.Tool):
    """The process of a tool that is made anew for each call, and of one that is kept."""

    device = "cpu"
    deterministic = False

    def load(self, device):
        self.kept = Unnamable(lambda: 1)

    def run(self, items):
        return [(worker.call(PidOnCpu(), [1])[0], worker.call(self.kept, [1])[0]) for _ in items]


class Unnamable(PidOnCpu):
    """Its argument has no canonical form."""

    def __init__(self, function) -> None:
        self.function = [function]


class Countdown(asyncgpu.Tool):
    """Calls itself with one less, down to 0; answers with the processes on the way."""

    device = "cpu"
    deterministic = False
    max_batch = 1

    def run(self, items):
        return [self.pids(item) for item in items]

    def pids(self, item):
        below = worker.call(self, [item - 1])[0] if item else []
        return [os.getpid(), *below]


class CountdownOnGpu(Countdown):
    """The same, where every worker needs a device."""

    device = "cuda"


class Endless(asyncgpu.Tool):
    """Calls itself for ever."""

    device = "cpu"
    deterministic = False

    def run(self, items):
        return worker.call(self, items)


class PingPong(asyncgpu.Tool):
    """One calls two, and two calls one, `item` times in all."""

    deterministic = False

    def run(self, items):
        other = PongPing().on(self.device)
        return [1 + worker.call(other, [item - 1])[0] if item else 0 for item in items]


class PongPing(asyncgpu.Tool):
    """The other one."""

    deterministic = False

    def run(self, items):
        other = PingPong().on(self.device)
        return [1 + worker.call(other, [item - 1])[0] if item else 0 for item in items]


class Doubles(asyncgpu.Tool):
    """Doubles arrays, which come back through shared memory."""

    device = "cpu"
    deterministic = False

    def run(self, items):
        return [item * 2 for item in items]


class ManyArrays(asyncgpu.Tool):
    """Sends an array there and back many times in one call; the sum of what came back."""

    device = "cpu"
    deterministic = False

    def run(self, items):
        import numpy as np

        sums = []
        for item in items:
            array = np.ones(1 << 20, np.uint8)
            total = 0
            for _ in range(item):
                [array_back] = worker.call(Doubles(), [array])
                total += int(array_back[0]) + int(array_back[-1])
            sums.append(total)
        return sums


class Catches(asyncgpu.Tool):
    """Answers with what a call to another tool raised."""

    deterministic = False

    def __init__(self, inner: asyncgpu.Tool) -> None:
        self.inner = inner

    def run(self, items):
        try:
            worker.call(self.inner, items)
        except Exception as error:
            return [error] * len(items)
        raise AssertionError("it should have failed")


class CatchesOnCpu(Catches):
    """The same, on the CPU."""

    device = "cpu"


class CallsFromThreads(asyncgpu.Tool):
    """Calls from several threads at once."""

    device = "cpu"
    deterministic = False

    def run(self, items):
        from concurrent.futures import ThreadPoolExecutor

        import numpy as np

        def call(item):
            [answer] = worker.call(Doubles(), [np.full(1 << 19, item, np.uint8)])
            return int(answer[0])

        with ThreadPoolExecutor(4) as threads:
            return list(threads.map(call, items))


class CallsWhileLoading(asyncgpu.Tool):
    """Cannot be loaded: `call` is for `run`."""

    device = "cpu"

    def load(self, device):
        worker.call(SquareOnCpu(), [1])


class Dies(asyncgpu.Tool):
    """Kills its own process."""

    device = "cpu"

    def run(self, items):
        os._exit(3)


class SaysWhetherCancelled(asyncgpu.Tool):
    """Begins, waits for its gate, and leaves a mark if it was cancelled."""

    device = "cpu"
    deterministic = False

    def __init__(self, entered, leave, cancelled) -> None:
        self.entered = entered
        self.leave = leave
        self.cancelled = cancelled

    def run(self, items):
        self.entered.open()
        self.leave.wait_sync()
        if worker.cancelled():
            self.cancelled.open()
        return list(items)
