"""One context's memory on a virtual device, for the tests of what it counts."""

from __future__ import annotations

from contextlib import contextmanager

from asyncgpu.devices.ledger import LockedLedger
from asyncgpu.drivers.virtual.driver import VirtualDriver
from asyncgpu.units import GB


class VirtualContext:
    """A context on ``cuda:0``, as the driver sees it.

    With `beside`, another context of the same driver and device.
    """

    def __init__(self, *, beside=None, **limits) -> None:
        self.driver = VirtualDriver.from_spec("2x8GiB") if beside is None else beside.driver
        self.ledger = LockedLedger(8 * GB) if beside is None else beside.ledger
        self.account = self.ledger.open(**limits)
        self.memory = self.driver.open_memory(0, self.ledger, self.account)
        self.stream = self.driver.create_stream(0, level=1)

    @contextmanager
    def applied(self):
        token = self.driver.apply(self.stream, memory=self.memory)
        try:
            yield self
        finally:
            self.driver.undo(token)

    @property
    def live(self):
        return self.memory.live()

    @property
    def used(self):
        return self.ledger.read(self.account).used
