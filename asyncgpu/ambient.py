"""What belongs to the current task: the ContextVars, all of them.

A ContextVar is inherited by child tasks, ``gather``, task groups and ``to_thread``; that is what
makes "the stream follows the task" and "the pool around it" true without passing anything along.
Values are typed `Any` because the layers that own the types stand above this one; each owner offers
a typed reader (`current_runtime`, `current_context`, ...).
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

__all__ = ["claims", "persistence", "pool", "runtime", "session"]

runtime: ContextVar[Any] = ContextVar("asyncgpu_runtime", default=None)
"""The `Runtime` opened by ``async with`` around this task."""

session: ContextVar[Any] = ContextVar("asyncgpu_session", default=None)
"""The innermost session; its stream is applied to the thread while a step of this task runs."""

pool: ContextVar[Any] = ContextVar("asyncgpu_pool", default=None)
"""The `ToolPool` around this task."""

persistence: ContextVar[Any] = ContextVar("asyncgpu_persistence", default=None)
"""The innermost ``persist()`` block."""

claims: ContextVar[frozenset[int]] = ContextVar("asyncgpu_claims", default=frozenset())
"""Ids of the device claims this task holds, so that it never waits for itself."""
