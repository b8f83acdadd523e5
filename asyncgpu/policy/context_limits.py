"""What a context asks for: the meaning of `max_vram`, `base_vram` and the QoS class together."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InvalidRequest
from ..units import Size, parse_size
from .qos import QoSPolicy

__all__ = ["ContextLimits", "context_limits"]


@dataclass(frozen=True, slots=True)
class ContextLimits:
    """A context's VRAM limits, in bytes."""

    qos: QoSPolicy
    max_vram: int | None
    """The most it may use; None: no cap of its own, the device's budget still holds."""
    base_vram: int
    """What a BURSTABLE context can rely on."""

    @property
    def reservation(self) -> int:
        """Bytes set aside on the device as long as the context is open."""
        if self.qos is QoSPolicy.GUARANTEED:
            return self.max_vram or 0
        return self.base_vram if self.qos is QoSPolicy.BURSTABLE else 0


def context_limits(
    qos: QoSPolicy, *, max_vram: Size | None = None, base_vram: Size | None = None
) -> ContextLimits:
    """Read a context's limits.

    Args:
        qos: its class. GUARANTEED needs `max_vram`; BEST_EFFORT takes no `base_vram`.
        max_vram: bytes, or a size such as ``"4GiB"``; above 0. None: no cap.
        base_vram: likewise, at most `max_vram`. None: `max_vram` for GUARANTEED, else 0.

    Raises:
        InvalidRequest: the three do not fit together.
    """
    if not isinstance(qos, QoSPolicy):
        raise InvalidRequest(f"qos: {qos!r} is not a QoSPolicy")
    most = None if max_vram is None else parse_size(max_vram, what="max_vram")
    if most == 0:
        raise InvalidRequest("max_vram: 0 bytes; leave it out for a context without a cap")
    if qos is QoSPolicy.GUARANTEED and most is None:
        raise InvalidRequest("max_vram: a GUARANTEED context needs one, it is what is guaranteed")
    if base_vram is None:
        return ContextLimits(qos, most, (most or 0) if qos is QoSPolicy.GUARANTEED else 0)
    base = parse_size(base_vram, what="base_vram")
    if qos is QoSPolicy.BEST_EFFORT and base:
        raise InvalidRequest(f"base_vram: {base} bytes, but nothing is reserved for BEST_EFFORT")
    if most is not None and base > most:
        raise InvalidRequest(f"base_vram: {base} bytes are more than max_vram, {most} bytes")
    return ContextLimits(qos, most, base)
