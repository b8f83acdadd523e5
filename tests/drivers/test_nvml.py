"""The inventory by NVML, on a fake of the `pynvml` module."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from asyncgpu.drivers.nvml import Nvml
from asyncgpu.errors import DeviceError, DeviceLost
from asyncgpu.units import GB


class NVMLError(Exception):
    pass


def error(name):
    return type(name, (NVMLError,), {})


class FakePynvml:
    """As much of `pynvml` as we use. A GPU is a namespace; it is its own handle."""

    NVMLError = NVMLError
    NVMLError_LibraryNotFound = error("NVMLError_LibraryNotFound")
    NVMLError_DriverNotLoaded = error("NVMLError_DriverNotLoaded")
    NVMLError_LibRmVersionMismatch = error("NVMLError_LibRmVersionMismatch")
    NVMLError_NotSupported = error("NVMLError_NotSupported")
    NVMLError_NotFound = error("NVMLError_NotFound")
    NVMLError_InvalidArgument = error("NVMLError_InvalidArgument")
    NVMLError_NoPermission = error("NVMLError_NoPermission")
    NVMLError_GpuIsLost = error("NVMLError_GpuIsLost")
    NVMLError_InsufficientPower = error("NVMLError_InsufficientPower")
    NVML_DEVICE_MIG_ENABLE = 1
    NVML_COMPUTEMODE_EXCLUSIVE_PROCESS = 3
    nvmlMemory_v2 = 0x2000028

    def __init__(self, *gpus, init_error=None):
        self.gpus = list(gpus)
        self.init_error = init_error
        self.opened = 0

    def nvmlInit(self):
        if self.init_error is not None:
            raise self.init_error("as scripted")
        self.opened += 1

    def nvmlShutdown(self):
        self.opened -= 1

    def nvmlDeviceGetCount(self):
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index):
        gpu = self.gpus[index]
        if gpu.unusable is not None:
            raise gpu.unusable
        return gpu

    def nvmlDeviceGetHandleByUUID(self, uuid):
        for gpu in self.gpus:
            for each in (gpu, *(slot for slot in gpu.slots if slot is not None)):
                if each.uuid == uuid:
                    return each
        raise self.NVMLError_NotFound

    def nvmlDeviceGetUUID(self, gpu):
        return gpu.uuid

    def nvmlDeviceGetName(self, gpu):
        return gpu.name

    def nvmlDeviceGetMemoryInfo(self, gpu, version=None):
        assert version == self.nvmlMemory_v2
        if gpu.memory_error is not None:
            raise gpu.memory_error
        return gpu.memory

    def nvmlDeviceGetComputeMode(self, gpu):
        if gpu.mode is None:
            raise self.NVMLError_InvalidArgument
        return gpu.mode

    def nvmlDeviceGetMigMode(self, gpu):
        if gpu.slots == ():
            raise self.NVMLError_NotSupported
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu):
        return len(gpu.slots)

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu, place):
        if gpu.slots[place] is None:
            raise self.NVMLError_NotFound
        return gpu.slots[place]

    def nvmlDeviceGetGpuInstanceId(self, handle):
        return handle.gpu_instance

    def nvmlDeviceGetComputeInstanceId(self, handle):
        return 0


def gpu(uuid, *, name="NVIDIA H200", total=141 * GB, free=100 * GB, mode=0, slots=(), **changes):
    memory = SimpleNamespace(total=total + GB, reserved=GB, free=free, used=total - free)
    fields = {"unusable": None, "memory_error": None, "gpu_instance": 0} | changes
    return SimpleNamespace(uuid=uuid, name=name, memory=memory, mode=mode, slots=slots, **fields)


@pytest.fixture
def opened(monkeypatch):
    """Open `Nvml` on a fake with these GPUs."""

    def open_(*gpus, environ=None, ask=None, init_error=None):
        fake = FakePynvml(*gpus, init_error=init_error)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        kwargs = {} if ask is None else {"ask_for_uuids": ask}
        return Nvml(environ or {}, **kwargs), fake

    return open_


@pytest.mark.parametrize("reason", ["LibraryNotFound", "DriverNotLoaded"])
def test_a_machine_without_nvidia_has_no_devices(opened, reason):
    nvml, _ = opened(init_error=getattr(FakePynvml, f"NVMLError_{reason}"))
    assert nvml.inventory() == ()
    nvml.close()


def test_the_real_module_finds_nothing_where_there_is_nothing_or_lists_what_there_is():
    nvml = Nvml({"CUDA_VISIBLE_DEVICES": ""})
    assert nvml.inventory() == ()
    nvml.close()


def test_a_driver_that_does_not_fit_its_library_is_an_error(opened):
    with pytest.raises(DeviceError, match="NVML cannot be used"):
        opened(init_error=FakePynvml.NVMLError_LibRmVersionMismatch)


def test_the_inventory_says_what_nvml_says(opened):
    nvml, _ = opened(gpu("GPU-a"), gpu("GPU-b", mode=3))
    first, second = nvml.inventory()
    assert (first.index, first.uuid, first.name) == (0, "GPU-a", "NVIDIA H200")
    assert not first.exclusive_process
    assert (second.index, second.uuid) == (1, "GPU-b")
    assert second.exclusive_process


def test_what_the_driver_reserves_is_not_part_of_the_total(opened):
    nvml, _ = opened(gpu("GPU-a", total=141 * GB))
    assert nvml.inventory()[0].total_memory == 141 * GB


def test_indices_are_logical(opened):
    nvml, _ = opened(gpu("GPU-a"), gpu("GPU-b"), environ={"CUDA_VISIBLE_DEVICES": "1,0"})
    assert [(d.index, d.uuid) for d in nvml.inventory()] == [(0, "GPU-b"), (1, "GPU-a")]


def test_gpus_nobody_can_use_are_left_out(opened):
    nvml, _ = opened(
        gpu("GPU-a", unusable=FakePynvml.NVMLError_NoPermission()),
        gpu("GPU-b"),
        gpu("GPU-c", unusable=FakePynvml.NVMLError_GpuIsLost()),
    )
    assert [d.uuid for d in nvml.inventory()] == ["GPU-b"]


def test_mig_instances_are_listed_in_place_of_their_gpu(opened):
    instance = gpu("MIG-x", name="NVIDIA H200 MIG 1g", total=16 * GB, mode=None, gpu_instance=7)
    sliced = gpu("GPU-a", slots=(None, instance, None))
    nvml, _ = opened(sliced)
    (device,) = nvml.inventory()
    assert (device.uuid, device.total_memory) == ("MIG-x", 16 * GB)
    assert not device.exclusive_process
    assert nvml.free_memory("MIG-x") == 100 * GB
    legacy, _ = opened(sliced, environ={"CUDA_VISIBLE_DEVICES": "MIG-GPU-a/7/0"})
    assert legacy.inventory() == nvml.inventory()


def test_on_a_mixed_machine_cuda_is_asked_for_its_order(opened):
    gpus = gpu("GPU-a", name="T4"), gpu("GPU-b", name="H200")
    nvml, _ = opened(*gpus, ask=lambda: ["b", "a"])
    assert [d.uuid for d in nvml.inventory()] == ["GPU-b", "GPU-a"]


@pytest.mark.parametrize(
    ("names", "environ"),
    [(("H200", "H200"), {}), (("T4", "H200"), {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})],
)
def test_cuda_is_not_asked_where_the_order_is_known(opened, names, environ):
    def ask():
        raise AssertionError("asked")

    gpus = [gpu(f"GPU-{place}", name=name) for place, name in enumerate(names)]
    nvml, _ = opened(*gpus, environ=environ, ask=ask)
    assert [d.uuid for d in nvml.inventory()] == ["GPU-0", "GPU-1"]


def test_free_memory_is_by_uuid_and_read_each_time(opened):
    nvml, fake = opened(gpu("GPU-a"), gpu("GPU-b", free=5 * GB))
    assert nvml.free_memory("GPU-b") == 5 * GB
    fake.gpus[1].memory.free = 4 * GB
    assert nvml.free_memory("GPU-b") == 4 * GB


def test_a_gpu_off_the_bus_is_lost(opened):
    nvml, fake = opened(gpu("GPU-a"))
    nvml.inventory()
    fake.gpus[0].memory_error = FakePynvml.NVMLError_GpuIsLost("gone")
    with pytest.raises(DeviceLost, match="GPU-a"):
        nvml.free_memory("GPU-a")
    fake.gpus[0].memory_error = FakePynvml.NVMLError_NotSupported("no")
    with pytest.raises(DeviceError, match="GPU-a") as info:
        nvml.free_memory("GPU-a")
    assert not isinstance(info.value, DeviceLost)


def test_an_inventory_that_cannot_be_made_is_an_error(opened):
    nvml, fake = opened(gpu("GPU-a"))
    fake.gpus[0].memory_error = FakePynvml.NVMLError_NotSupported("no memory here")
    with pytest.raises(DeviceError, match="cannot list the devices: no memory here"):
        nvml.inventory()


def test_closing_gives_nvml_back_once(opened):
    nvml, fake = opened(gpu("GPU-a"))
    assert fake.opened == 1
    nvml.close()
    nvml.close()
    assert fake.opened == 0
