"""One async program, many GPU models at once, and never a blocked event loop."""

from . import errors, worker
from .api import (
    create_context,
    current_runtime,
    destroy_context,
    get_context,
    get_stream,
    initialize,
    list_contexts,
    record_event,
    shutdown,
    wait_event,
)
from .blocking import BlockingRuntime, blocking_runtime
from .contexts.context import ExecutionContext
from .contexts.current import current_context
from .contexts.events import DeviceEvent
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
    ToolFailed,
    VRAMBudgetExceeded,
    WorkerDied,
    WorkerError,
    WorkerStartTimeout,
)
from .policy.context_state import ContextState
from .policy.offload import OffloadStrategy
from .policy.qos import QoSPolicy
from .runtime import Runtime, RuntimeStatus
from .settings import Settings
from .tools.job import ItemResult
from .tools.persist import Worker, get_tool, persist, persist_tool, shutdown_tool
from .tools.pool import ToolPool
from .tools.progress import Progress
from .tools.stats import PoolStats, SlotStats
from .tools.timeline import Span, Timeline
from .tools.tool import Tool, tool
from .units import GB, KB, MB

__all__ = [
    "GB",
    "KB",
    "MB",
    "AdmissionRejected",
    "Allocation",
    "AsyncGPUError",
    "BlockingRuntime",
    "ContextClosed",
    "ContextState",
    "ContextUsage",
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
    "NoRuntime",
    "OffloadStrategy",
    "OutOfDeviceMemory",
    "PartialFailure",
    "PoolStats",
    "Progress",
    "QoSPolicy",
    "RequestError",
    "Runtime",
    "RuntimeStatus",
    "Settings",
    "SlotStats",
    "Span",
    "Stream",
    "Timeline",
    "Tool",
    "ToolFailed",
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
    "get_context",
    "get_stream",
    "get_tool",
    "initialize",
    "list_contexts",
    "persist",
    "persist_tool",
    "record_event",
    "shutdown",
    "shutdown_tool",
    "tool",
    "wait_event",
    "worker",
]
