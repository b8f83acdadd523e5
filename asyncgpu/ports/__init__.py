"""The ports: what the layers above ask of the two edges, the GPU and the worker processes.

Each edge is a few small protocols. `runtime` picks an implementation by name and imports it late;
nobody else names one. Both drivers pass one contract suite (``tests/drivers/contract.py``), and so
do the worker transports (``tests/workers/``).
"""

from __future__ import annotations

from .device import ComputeShare, DeviceInfo, DriverEvent, DriverStream, Leaf
from .driver import Codec, Driver
from .memory import AccountReading, DriverBlocks, DriverMemory, MemoryLedger, Refusal
from .worker import (
    NestedCall,
    Preparation,
    Reply,
    WorkerChannel,
    WorkerRoom,
    WorkerRooms,
    WorkerSpec,
    WorkerStatistics,
    WorkerTransport,
)

__all__ = [
    "AccountReading",
    "Codec",
    "ComputeShare",
    "DeviceInfo",
    "Driver",
    "DriverBlocks",
    "DriverEvent",
    "DriverMemory",
    "DriverStream",
    "Leaf",
    "MemoryLedger",
    "NestedCall",
    "Preparation",
    "Refusal",
    "Reply",
    "WorkerChannel",
    "WorkerRoom",
    "WorkerRooms",
    "WorkerSpec",
    "WorkerStatistics",
    "WorkerTransport",
]
