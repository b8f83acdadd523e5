"""The CUDA driver with what the drivers' contract needs beside it."""

from __future__ import annotations

import pytest
import torch

from asyncgpu.drivers.cuda.driver import CudaDriver
from asyncgpu.drivers.nvml import Nvml
from asyncgpu.errors import DeviceLost

HOLDS = 16


class CudaRig:
    """Streams are held by CUDA itself: they wait for a number in page-locked host memory.

    Everything is allocated and every kernel loaded beforehand, because CUDA may synchronise the
    device for either, and would then wait for a stream that is held.
    """

    def __init__(self) -> None:
        self.driver = CudaDriver.open()
        self._numbers = {}
        for device in self.driver.inventory():
            self._numbers[device.index] = torch.zeros(
                (), dtype=torch.int64, device=f"cuda:{device.index}"
            )
            self._multiply_and_add(device.index, 0)
            torch.cuda.synchronize(device.index)
        self._flags = torch.zeros(HOLDS, dtype=torch.int32).pin_memory()
        self._holds = iter(range(HOLDS))

    def append(self, stream, digit):
        with torch.cuda.stream(stream.torch_stream):
            self._multiply_and_add(stream.device, digit)

    def read(self):
        return int(self._numbers[0].item())

    def hold(self, stream):
        from cuda.bindings import driver as cuda

        place = next(self._holds)
        address = self._flags.data_ptr() + place * self._flags.element_size()
        with torch.cuda.device(stream.device):
            equal = int(cuda.CUstreamWaitValue_flags.CU_STREAM_WAIT_VALUE_EQ)
            (code,) = cuda.cuStreamWaitValue32(stream.id, address, 1, equal)
        assert int(code) == 0

        def release() -> None:
            self._flags[place] = 1

        return release

    def seen_by_worker(self, environment):
        nvml = Nvml(environment)
        try:
            return [device.total_memory for device in nvml.inventory()]
        finally:
            nvml.close()

    def break_device(self, device):
        stream = self.driver.create_stream(device, level=1)
        with torch.cuda.stream(stream.torch_stream):
            torch._assert_async(torch.zeros((), dtype=torch.bool, device=f"cuda:{device}"))
        with pytest.raises(DeviceLost):
            stream.record().synchronize()

    def close(self) -> None:
        self._flags.fill_(1)
        self.driver.close()

    def _multiply_and_add(self, device, digit):
        self._numbers[device].mul_(10).add_(digit)


def opened_rig():
    """For fixtures: a rig, or a skipped test where there is no CUDA device."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    rig = CudaRig()
    yield rig
    rig.close()
