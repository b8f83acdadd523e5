"""One async program, many GPU models at once, and never a blocked event loop.

A name is imported when it is first asked for. A worker process needs `Tool` and little else, and
whoever waits for a worker waits for its imports.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import errors as errors
    from . import worker as worker
    from .api import (
        create_context,
        current_runtime,
        destroy_context,
        get_available_vram,
        get_context,
        initialize,
        list_contexts,
        on_memory_pressure,
        shutdown,
    )
    from .blocking import BlockingRuntime, blocking_runtime
    from .contexts.calls import get_context_usage, get_stream, record_event, wait_event
    from .contexts.context import ExecutionContext
    from .contexts.current import current_context
    from .contexts.events import DeviceEvent
    from .contexts.memory_block import MemoryBlock
    from .contexts.memory_pool import MemoryPool, MemoryPoolStats
    from .contexts.partition import Partition, PartitionUsage
    from .contexts.partitions import PartitionManager, PartitionStats
    from .contexts.session import context_session
    from .contexts.stream import Stream
    from .contexts.usage import ContextUsage
    from .devices.allocation import Allocation
    from .devices.lease import Lease
    from .devices.manager import DeviceManager
    from .devices.status import DeviceChange, DeviceStatus
    from .errors import (
        AdmissionRejected,
        AsyncGPUError,
        ContextClosed,
        DeviceError,
        DeviceLost,
        DuplicateName,
        InfeasibleRequest,
        InvalidDevice,
        InvalidRequest,
        InvalidTransition,
        ItemError,
        NoRuntime,
        OutOfDeviceMemory,
        PartialFailure,
        RequestError,
        SessionMisuse,
        ToolFailed,
        ToolOutOfMemory,
        VRAMBudgetExceeded,
        WorkerDied,
        WorkerError,
        WorkerStartTimeout,
    )
    from .policy.context_state import ContextState
    from .policy.evaluator import Decision, QosEvaluation, QosPolicyEvaluator, QosStats
    from .policy.offload import OffloadStrategy
    from .policy.partitions import PartitionConfig, PartitionLimits
    from .policy.qos import QoSPolicy
    from .policy.task_meta import QosTaskMeta
    from .runtime import Runtime, RuntimeStatus
    from .settings import Settings
    from .tools.answers import CacheStats
    from .tools.persist import Worker, get_tool, persist, persist_tool, shutdown_tool
    from .tools.plan_work import ItemResult
    from .tools.pool import ToolPool
    from .tools.progress import Progress
    from .tools.result_cache import ResultCache
    from .tools.stats import PoolStats, SlotStats
    from .tools.timeline import Span, Timeline
    from .tools.tool import Tool, tool
    from .units import GB, KB, MB

_HOME = {
    "create_context": ".api",
    "current_runtime": ".api",
    "destroy_context": ".api",
    "get_available_vram": ".api",
    "get_context": ".api",
    "get_context_usage": ".contexts.calls",
    "get_stream": ".contexts.calls",
    "initialize": ".api",
    "list_contexts": ".api",
    "on_memory_pressure": ".api",
    "record_event": ".contexts.calls",
    "shutdown": ".api",
    "wait_event": ".contexts.calls",
    "BlockingRuntime": ".blocking",
    "blocking_runtime": ".blocking",
    "ExecutionContext": ".contexts.context",
    "current_context": ".contexts.current",
    "DeviceEvent": ".contexts.events",
    "Partition": ".contexts.partition",
    "PartitionUsage": ".contexts.partition",
    "PartitionManager": ".contexts.partitions",
    "PartitionStats": ".contexts.partitions",
    "MemoryBlock": ".contexts.memory_block",
    "MemoryPool": ".contexts.memory_pool",
    "MemoryPoolStats": ".contexts.memory_pool",
    "context_session": ".contexts.session",
    "Stream": ".contexts.stream",
    "ContextUsage": ".contexts.usage",
    "Allocation": ".devices.allocation",
    "Lease": ".devices.lease",
    "DeviceManager": ".devices.manager",
    "DeviceChange": ".devices.status",
    "DeviceStatus": ".devices.status",
    "AdmissionRejected": ".errors",
    "AsyncGPUError": ".errors",
    "ContextClosed": ".errors",
    "DeviceError": ".errors",
    "DeviceLost": ".errors",
    "DuplicateName": ".errors",
    "InfeasibleRequest": ".errors",
    "InvalidDevice": ".errors",
    "InvalidRequest": ".errors",
    "InvalidTransition": ".errors",
    "ItemError": ".errors",
    "NoRuntime": ".errors",
    "OutOfDeviceMemory": ".errors",
    "PartialFailure": ".errors",
    "RequestError": ".errors",
    "SessionMisuse": ".errors",
    "ToolFailed": ".errors",
    "ToolOutOfMemory": ".errors",
    "VRAMBudgetExceeded": ".errors",
    "WorkerDied": ".errors",
    "WorkerError": ".errors",
    "WorkerStartTimeout": ".errors",
    "ContextState": ".policy.context_state",
    "Decision": ".policy.evaluator",
    "QosEvaluation": ".policy.evaluator",
    "QosPolicyEvaluator": ".policy.evaluator",
    "QosStats": ".policy.evaluator",
    "OffloadStrategy": ".policy.offload",
    "PartitionConfig": ".policy.partitions",
    "PartitionLimits": ".policy.partitions",
    "QoSPolicy": ".policy.qos",
    "QosTaskMeta": ".policy.task_meta",
    "Runtime": ".runtime",
    "RuntimeStatus": ".runtime",
    "Settings": ".settings",
    "CacheStats": ".tools.answers",
    "Worker": ".tools.persist",
    "get_tool": ".tools.persist",
    "persist": ".tools.persist",
    "persist_tool": ".tools.persist",
    "shutdown_tool": ".tools.persist",
    "ItemResult": ".tools.plan_work",
    "ToolPool": ".tools.pool",
    "Progress": ".tools.progress",
    "ResultCache": ".tools.result_cache",
    "PoolStats": ".tools.stats",
    "SlotStats": ".tools.stats",
    "Span": ".tools.timeline",
    "Timeline": ".tools.timeline",
    "Tool": ".tools.tool",
    "tool": ".tools.tool",
    "GB": ".units",
    "KB": ".units",
    "MB": ".units",
}
_MODULES = ("errors", "testing", "worker")

__all__ = [
    "GB",
    "KB",
    "MB",
    "AdmissionRejected",
    "Allocation",
    "AsyncGPUError",
    "BlockingRuntime",
    "CacheStats",
    "ContextClosed",
    "ContextState",
    "ContextUsage",
    "Decision",
    "DeviceChange",
    "DeviceError",
    "DeviceEvent",
    "DeviceLost",
    "DeviceManager",
    "DeviceStatus",
    "DuplicateName",
    "ExecutionContext",
    "InfeasibleRequest",
    "InvalidDevice",
    "InvalidRequest",
    "InvalidTransition",
    "ItemError",
    "ItemResult",
    "Lease",
    "MemoryBlock",
    "MemoryPool",
    "MemoryPoolStats",
    "NoRuntime",
    "OffloadStrategy",
    "OutOfDeviceMemory",
    "PartialFailure",
    "Partition",
    "PartitionConfig",
    "PartitionLimits",
    "PartitionManager",
    "PartitionStats",
    "PartitionUsage",
    "PoolStats",
    "Progress",
    "QoSPolicy",
    "QosEvaluation",
    "QosPolicyEvaluator",
    "QosStats",
    "QosTaskMeta",
    "RequestError",
    "ResultCache",
    "Runtime",
    "RuntimeStatus",
    "SessionMisuse",
    "Settings",
    "SlotStats",
    "Span",
    "Stream",
    "Timeline",
    "Tool",
    "ToolFailed",
    "ToolOutOfMemory",
    "ToolPool",
    "VRAMBudgetExceeded",
    "Worker",
    "WorkerDied",
    "WorkerError",
    "WorkerStartTimeout",
    "blocking_runtime",
    "context_session",
    "create_context",
    "current_context",
    "current_runtime",
    "destroy_context",
    "errors",
    "get_available_vram",
    "get_context",
    "get_context_usage",
    "get_stream",
    "get_tool",
    "initialize",
    "list_contexts",
    "on_memory_pressure",
    "persist",
    "persist_tool",
    "record_event",
    "shutdown",
    "shutdown_tool",
    "tool",
    "wait_event",
    "worker",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name], __name__), name)
    globals()[name] = value  # so that this is asked once for each name
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
