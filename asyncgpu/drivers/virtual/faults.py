"""A script of faults that virtual devices play: what goes wrong, where, and when."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from ...errors import DeviceLost, InvalidRequest
from ...units import Size, parse_size

__all__ = ["FaultScript", "Scripted", "active_script"]


class Scripted(Protocol):
    """A device, as the script sees it."""

    @property
    def index(self) -> int: ...

    def lose(self, reason: str) -> None: ...


class FaultScript:
    """Faults to come, for every virtual driver that follows this script. Thread-safe.

    A driver follows the script that is active when it is opened; without one it has its own, which
    stays empty unless somebody writes into it. Devices are named by index or as ``"cuda:0"``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._devices: list[Scripted] = []
        self._failing_applies = 0
        self._failing_work: Counter[int] = Counter()
        self._occupied: Counter[int] = Counter()
        self._refusals: Counter[int] = Counter()

    @contextmanager
    def active(self) -> Iterator[FaultScript]:
        """Every virtual driver opened inside follows this script."""
        _active.append(self)
        try:
            yield self
        finally:
            _active.remove(self)

    def fail_next_apply(self, *, times: int = 1) -> None:
        """The next `times` attempts to make a stream current raise `DeviceLost`, on any thread."""
        with self._lock:
            self._failing_applies += times

    def fail_next_work(self, device: int | str) -> None:
        """The next piece of work that begins on `device` fails, and with it the device.

        As on CUDA, nobody learns of it before they wait for that work or give the device more.
        """
        with self._lock:
            self._failing_work[_index(device)] += 1

    def lose_device(self, device: int | str, reason: str = "scripted fault") -> None:
        """Every wait on `device` raises `DeviceLost` from now on, those under way included."""
        index = _index(device)
        with self._lock:
            devices = [each for each in self._devices if each.index == index]
        for each in devices:
            each.lose(reason)

    def occupy(self, device: int | str, size: Size) -> None:
        """Another program now uses `size` of the device's memory; 0 ends that."""
        nbytes = parse_size(size, what=f"memory used on {device}")
        with self._lock:
            self._occupied[_index(device)] = nbytes

    def refuse_next_allocation(self, device: int | str, *, times: int = 1) -> None:
        """The next `times` allocations on `device` by contexts fail, as if it were full."""
        with self._lock:
            self._refusals[_index(device)] += times

    def attach(self, device: Scripted) -> None:
        """Let `device` play this script."""
        with self._lock:
            self._devices.append(device)

    def detach(self, device: Scripted) -> None:
        """End what `attach` began."""
        with self._lock:
            self._devices.remove(device)

    def occupied(self, device: int) -> int:
        """Bytes that other programs use on the device."""
        return self._occupied[device]

    def before_apply(self) -> None:
        """Raise if the script says so; called for every step, so it looks before it locks."""
        if self._failing_applies and self._take_apply():
            raise DeviceLost("scripted fault: this stream could not be made current")

    def before_work(self, device: int) -> None:
        """Raise if the script says so, in the thread of a stream of `device`."""
        with self._lock:
            failing = self._failing_work[device] > 0
            self._failing_work[device] -= failing
        if failing:
            raise RuntimeError("scripted fault")

    def refuses_allocation(self, device: int) -> bool:
        """Whether the script says so; asked for every allocation, so it looks before it locks."""
        return self._refusals[device] > 0 and self._take_refusal(device)

    def _take_refusal(self, device: int) -> bool:
        with self._lock:
            taken = self._refusals[device] > 0
            self._refusals[device] -= taken
            return taken

    def _take_apply(self) -> bool:
        with self._lock:
            taken = self._failing_applies > 0
            self._failing_applies -= taken
            return taken


def active_script() -> FaultScript:
    """Return the script that a driver opened now follows."""
    return _active[-1] if _active else FaultScript()


# The whole process's, like the environment variable that virtual devices are asked for with: a
# test sets the scene before the program under test opens its runtime, in whatever task or thread.
_active: list[FaultScript] = []


def _index(device: int | str) -> int:
    text = str(device).removeprefix("cuda:")
    if not (text.isascii() and text.isdigit()):
        raise InvalidRequest(f"{device!r} names no device; write 0 or 'cuda:0'")
    return int(text)
