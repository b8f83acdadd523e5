"""A torch and an NVML without a GPU, for the CUDA driver.

The fake keeps torch's rules for current streams: one per device and thread, a current device per
thread, and setting a stream sets its device.
"""

from __future__ import annotations

import threading
from types import SimpleNamespace

from asyncgpu.drivers.cuda.native import hardware_priority
from asyncgpu.ports import DeviceInfo

CUDA = 1


class FakeStream:
    def __init__(self, stream_ptr=0, device=0, stream_id=None, device_index=None, device_type=CUDA):
        self.stream_id = stream_ptr if stream_id is None else stream_id
        self.device_index = device if device_index is None else device_index
        self.device_type = device_type
        self.cuda_stream = self.stream_id
        self.priority = 0
        self.pending = False
        self.waited_for = []

    def query(self):
        return not self.pending

    def wait_event(self, event):
        self.waited_for.append(event)


class FakeEvent:
    def __init__(self, blocking=False, enable_timing=False):
        assert blocking
        assert enable_timing
        self.error = None
        self.time = 0.0

    def record(self, stream):
        if self.error is not None:
            raise self.error
        self.stream = stream

    def query(self):
        if self.error is not None:
            raise self.error
        return True

    def elapsed_time(self, end):
        return end.time - self.time


class FakeTorch:
    """The private calls of `torch._C` and the public ones of `torch.cuda`, on one state."""

    __version__ = "2.11.0+cu130"
    version = SimpleNamespace(cuda="13.0")

    def __init__(self, *, private=True):
        self.local = threading.local()
        self.cuda = SimpleNamespace(
            ExternalStream=FakeStream,
            Stream=FakeStream,
            Event=FakeEvent,
            current_device=self.device,
            current_stream=lambda device: FakeStream(*self.stream(device)[:2]),
            set_stream=lambda s: self.set_stream(s.stream_id, s.device_index, s.device_type),
        )
        self._C = SimpleNamespace()
        if private:
            self._C._cuda_getDevice = self.device
            self._C._cuda_getCurrentStream = self.stream
            self._C._cuda_setStream = self.set_stream

    def device(self):
        return getattr(self.local, "device", 0)

    def stream(self, device):
        return getattr(self.local, f"stream{device}", (0, device, CUDA))

    def set_stream(self, stream_id, device_index, device_type):
        self.local.device = device_index
        setattr(self.local, f"stream{device_index}", (stream_id, device_index, device_type))

    def state(self):
        return self.device(), [self.stream(device) for device in range(3)]


class FakeNative:
    def __init__(self):
        self.created = 0

    def create(self, device, *, level):
        self.created += 1
        return 0x1000 + self.created, hardware_priority(level, least=0, greatest=-5)


def info(index):
    return DeviceInfo(index=index, name="NVIDIA H200", uuid=f"GPU-{index}", total_memory=1)


class FakeNvml:
    closed = False

    def inventory(self):
        return (info(0), info(1), info(2))

    def free_memory(self, uuid):
        return {"GPU-0": 10, "GPU-1": 11, "GPU-2": 12}[uuid]

    def close(self):
        self.closed = True
