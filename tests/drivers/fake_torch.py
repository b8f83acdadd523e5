"""A torch and an NVML without a GPU, for the CUDA driver; `fake_pools` has its allocator.

The fake keeps torch's rules for current streams: one per device and thread, a current device per
thread, and setting a stream sets its device.
"""

from __future__ import annotations

import contextlib
import threading
from types import SimpleNamespace

from asyncgpu.drivers.cuda.native import hardware_priority
from asyncgpu.ports import DeviceInfo

from .fake_pools import FakeAllocator, FakeCachingAllocator

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

    def __init__(self, *, private=True, newest_first=True, backend="native"):
        self.local = threading.local()
        self.pools = pools = FakeCachingAllocator(self.device, newest_first=newest_first)
        self.cuda = SimpleNamespace(
            MemPool=pools.MemPool,
            use_mem_pool=self.use_mem_pool,
            memory_snapshot=pools.snapshot,
            empty_cache=pools.empty_cache,
            synchronize=pools.synchronize,
            default_stream=lambda device: pools,
            get_allocator_backend=lambda: backend,
            ExternalStream=FakeStream,
            Stream=FakeStream,
            Event=FakeEvent,
            current_device=self.device,
            current_stream=lambda device: FakeStream(*self.stream(device)[:2]),
            set_stream=lambda s: self.set_stream(s.stream_id, s.device_index, s.device_type),
        )
        self._C = SimpleNamespace(
            _cuda_customAllocator=FakeAllocator,
            _is_multithreading_enabled=lambda: getattr(self.local, "multithreading", True),
            _set_multithreading_enabled=lambda on: setattr(self.local, "multithreading", on),
        )
        if private:
            self._C._cuda_beginAllocateCurrentThreadToPool = pools.begin
            self._C._cuda_endAllocateToPool = pools.end
            self._C._cuda_releasePool = pools.release
            self._C._cuda_clearCublasWorkspaces = pools.clear_workspaces
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

    @contextlib.contextmanager
    def use_mem_pool(self, pool, device):
        self.pools.begin(device, pool.id)
        try:
            yield
        finally:
            self.pools.end(device, pool.id)
            self.pools.release(device, pool.id)

    def state(self):
        streams = [self.stream(device) for device in range(3)]
        pools = [self.pools.current(device) for device in range(3)]
        return self.device(), streams, pools, self._C._is_multithreading_enabled()


class FakeNative:
    def __init__(self):
        self.created = 0

    def create(self, device, *, level, green=None):
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
