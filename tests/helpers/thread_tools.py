"""Tools whose workers are threads of the test's own process."""

from __future__ import annotations

import threading

import asyncgpu
from asyncgpu import worker
from asyncgpu.units import MB


class Here(asyncgpu.Tool):
    """Answers with its thread and the name of the context around it."""

    deterministic = False

    def run(self, items):
        context = asyncgpu.current_context()
        name = None if context is None else context.name
        return [(threading.get_ident(), name)] * len(items)


class HereOnCpu(Here):
    """The same, on the CPU."""

    device = "cpu"


class Limited(Here):
    """Has declared its memory."""

    vram = "1GB"


class Allocates(asyncgpu.Tool):
    """Holds as many megabytes as its items say; answers with how many came together."""

    vram = "1GB"
    max_batch = 8
    deterministic = False

    def run(self, items):
        import torch

        held = [torch.empty(item * MB, dtype=torch.uint8) for item in items]
        return [len(held)] * len(items)


class Weighs(Limited):
    """Has 800 MB of weights, and can be moved."""

    def load(self, device):
        self.places = []
        self.weights = None
        self.to(device)

    def to(self, device):
        """On a virtual device, both ends are called "cpu": so it is the other one each time."""
        import torch

        context = asyncgpu.current_context()
        self.places.append(None if context is None else context.device)
        here = self.weights is None
        self.weights = torch.empty(800 * MB, dtype=torch.uint8) if here else None

    def run(self, items):
        return [list(self.places)] * len(items)


class UntilCancelled(asyncgpu.Tool):
    """Runs until nobody wants its answer; it says when it has begun, and when it has ended."""

    def __init__(self, entered, left) -> None:
        self.entered = entered
        self.left = left

    def run(self, items):
        self.entered.open()
        while not worker.cancelled():
            threading.Event().wait(0.001)
        self.left.open()
        return items


class Exits(asyncgpu.Tool):
    """Thinks that it is alone in its process."""

    def run(self, items):
        raise SystemExit(3)


class FailsWithATensor(Limited):
    """Has 800 MB in a variable when it fails."""

    def run(self, items):
        import torch

        kept = torch.empty(800 * MB, dtype=torch.uint8)
        raise ValueError(len(kept))


class TakesApart(asyncgpu.Tool):
    """Empties the list that it is given."""

    def run(self, items):
        answers = []
        while items:
            answers.insert(0, items.pop())
        return answers


class Asks(asyncgpu.Tool):
    """Has another tool answer."""

    def __init__(self, tool) -> None:
        self.tool = tool

    def run(self, items):
        return worker.call(self.tool, items)


class AsksFromTheCpu(Asks):
    """The same, on the CPU."""

    device = "cpu"


class SmallAsks(Asks):
    """The same, in declared memory."""

    vram = "1GB"


class AsksWhileLoading(asyncgpu.Tool):
    """Calls another tool before it can."""

    def load(self, device):
        worker.call(HereOnCpu(), [1])


class Reports(asyncgpu.Tool):
    """Says how far it has come."""

    def run(self, items):
        for done in range(len(items)):
            worker.progress(done + 1, len(items))
        return items


class Closes(asyncgpu.Tool):
    """Says in which thread it has been loaded, and closed."""

    def __init__(self, seen) -> None:
        self.seen = seen

    def load(self, device):
        self.seen.append(threading.get_ident())

    def run(self, items):
        self.seen.append(threading.get_ident())
        return items

    def close(self):
        self.seen.append(threading.get_ident())


class ShortLivedHere(Here):
    """Is replaced after two calls."""

    recycle_after = 2
    max_batch = 1
