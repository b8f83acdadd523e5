"""Find the virtual stream that a context, or a public stream, puts its work on."""

from __future__ import annotations

from ..drivers.virtual.stream import VirtualStream
from ..errors import InvalidRequest

__all__ = ["virtual_stream"]


def virtual_stream(target: object) -> VirtualStream:
    """Return the virtual stream of a context, of a context's stream, or itself.

    Raises:
        InvalidRequest: there is none: it is on a real device, or no stream at all.
    """
    public = getattr(target, "stream", target)
    beneath = getattr(public, "driver_stream", public)
    if not isinstance(beneath, VirtualStream):
        raise InvalidRequest(f"{target!r} has no virtual stream: only virtual devices can be held")
    return beneath
