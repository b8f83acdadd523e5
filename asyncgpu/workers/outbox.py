"""Requests on their way to a worker: packed, copied into the arena and written, in order."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .conveyor import Conveyor
from .exchange import Exchange, Parcel
from .lane import Lane
from .reactor import Reactor

__all__ = ["HEAVY", "Outbox"]

HEAVY = 1 << 20
"""Bytes; more is copied, or unpickled, in a thread: it would keep the loop for a tenth of a
millisecond and longer."""


class Outbox:
    """Sends what it is given, in that order; `on_failed(request, error)` tells what could not be.

    That a request cannot be pickled is told at once, by `send` itself.
    """

    def __init__(
        self,
        reactor: Reactor,
        worker: str,
        exchange: Exchange,
        lane: Lane,
        on_failed: Callable[[int, Exception], None],
    ) -> None:
        self._exchange = exchange
        self._lane = lane
        self._on_failed = on_failed
        self._copies = Conveyor(reactor, f"asyncgpu-send {worker}")

    def send(self, kind: int, request: int, value: object, *, soon: bool) -> None:
        """Send a request; with `soon`, together with the others of this turn of the loop.

        Raises:
            Exception: `value` cannot be pickled.
        """
        packed = self._exchange.pack(kind, request, value)
        if isinstance(packed, Parcel) or self._copies.under_way:
            bulk = packed.bulk if isinstance(packed, Parcel) else 0
            self._copies.put(
                partial(_copy, packed), partial(self._write, request, packed), heavy=bulk > HEAVY
            )
        elif soon or not self._exchange.inbound.any_done:
            self._lane.write(packed, soon=soon)
        else:
            self._lane.write_pieces([*self._exchange.releases(), packed])

    def after_all(self, callback: Callable[[], None]) -> None:
        """Call `callback` when everything before it has been written."""
        self._copies.put(_nothing, lambda _: callback(), heavy=False)

    def close(self) -> None:
        """End the thread; only after all."""
        self._copies.close()

    def _write(self, request: int, packed: bytes | Parcel, error: Exception | None) -> None:
        if error is not None:
            self._on_failed(request, error)
        else:
            pieces = packed.pieces if isinstance(packed, Parcel) else [packed]
            self._lane.write_pieces([*self._exchange.releases(), *pieces])


def _copy(packed: bytes | Parcel) -> Exception | None:
    try:
        if isinstance(packed, Parcel):
            packed.copy()
    except Exception as error:  # noqa: BLE001 - a full disk, where there is no memfd
        return error
    return None


def _nothing() -> None:
    pass
