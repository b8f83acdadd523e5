"""Adoption: one context works on the tensors of another, without a copy and without a wait.

Memory that one stream has allocated may be given back, and allocated anew, as soon as its owner
drops it: nothing in it knows that another stream still reads. So the consumer gets aliases. When
the last of them is dropped, the memory's owner is kept until the consumer's stream has passed.
"""

from __future__ import annotations

from typing import TypeVar

from .core import ContextCore
from .events import DeviceEvent, check_event, wait_on_device
from .tree import leaves, rebuilt

__all__ = ["adopted"]

T = TypeVar("T")


def adopted(core: ContextCore, device: int, tensors: T, event: DeviceEvent | None) -> T:
    """Return `tensors` as aliases; see `ExecutionContext.adopt`."""
    core.check_open()
    if event is not None:
        check_event(core, event)
    # Now, because the last drop of an alias may be in a finaliser, which must not start a thread.
    core.waiter.start()
    found = list(leaves(tensors, "tensors"))
    aliases = core.driver.alias(found, device, core.waiter.let_go)
    if event is not None:
        wait_on_device(core, event)
    result: T = rebuilt(tensors, iter(aliases))
    return result
