"""The virtual driver keeps the drivers' contract."""

from __future__ import annotations

import threading

import pytest

from asyncgpu.drivers.virtual.driver import VirtualDriver
from asyncgpu.drivers.virtual.spec import VARIABLE
from asyncgpu.errors import DeviceLost

from .contract import DriverContract, FaultContract
from .memory_contract import MemoryContract


class VirtualRig:
    def __init__(self) -> None:
        self.driver = VirtualDriver.from_spec("8GiB,4GiB")
        self.number = 0

    def append(self, stream, digit):
        def write() -> None:
            self.number = 10 * self.number + digit

        stream.enqueue(write)

    def read(self):
        return self.number

    def hold(self, stream):
        latch = threading.Event()
        stream.enqueue(latch.wait, interrupt=latch.set)
        return latch.set

    def seen_by_worker(self, environment):
        if not environment[VARIABLE]:
            return []
        driver = VirtualDriver.from_spec(environment[VARIABLE])
        try:
            return [device.total_memory for device in driver.inventory()]
        finally:
            driver.close()

    def break_device(self, device):
        def fail() -> None:
            raise MemoryError("illegal access")

        stream = self.driver.create_stream(device, level=1)
        release = self.hold(stream)
        stream.enqueue(fail)
        event = stream.record()
        release()
        with pytest.raises(DeviceLost, match="illegal access"):
            event.synchronize()


@pytest.fixture
def rig():
    rig = VirtualRig()
    yield rig
    rig.driver.close()


class TestVirtualDriver(DriverContract):
    pass


class TestVirtualMemory(MemoryContract):
    pass


class TestVirtualFaults(FaultContract):
    pass
