"""What `DeviceManager.configure` and the settings say, made definite."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import InvalidDevice, InvalidRequest
from ..policy.device_inputs import Configured
from ..policy.device_spec import parse_managed_devices
from ..policy.offload import OffloadStrategy
from ..ports import DeviceInfo
from ..settings import Settings

__all__ = ["ManagedDevices", "Options"]

ManagedDevices = str | Sequence[int | str]


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for; what holds may be less, see `configured`."""

    managed: tuple[int, ...]
    strategy: OffloadStrategy
    packing: bool

    @classmethod
    def from_settings(cls, settings: Settings, visible: tuple[int, ...]) -> Options:
        """Return what the settings ask for.

        Raises:
            InvalidDevice: the managed devices cannot be read.
        """
        listed = settings.managed_devices
        return cls(
            managed=visible if listed is None else parse_managed_devices(listed),
            strategy=OffloadStrategy(settings.offload_strategy),
            packing=settings.allow_multiple_per_device,
        )

    def changed(
        self,
        defaults: Options,
        managed: ManagedDevices | None,
        strategy: OffloadStrategy | str | None,
        packing: bool | Literal["auto"] | None,
    ) -> Options:
        """Return these with some changed. None: as it is; ``"auto"``: as in `defaults`.

        Raises:
            InvalidRequest: a value that means nothing.
        """
        return Options(
            managed=_read_managed(managed, self.managed, defaults.managed),
            strategy=_read_strategy(strategy, self.strategy, defaults.strategy),
            packing=_read_packing(packing, self.packing, defaults.packing),
        )

    def configured(self, inventory: Mapping[int, DeviceInfo]) -> Configured:
        """Return what the device table is told.

        A device in exclusive-process mode admits one process: there, victims must end, and two
        holders can never share. One such device among the managed ones decides for all of them.
        """
        exclusive = [i for i in self.managed if i in inventory and inventory[i].exclusive_process]
        if not exclusive:
            return Configured(self.managed, self.packing, self.strategy)
        if self.packing or self.strategy is not OffloadStrategy.RESTART:
            warnings.warn(
                f"cuda:{exclusive[0]} is in exclusive-process mode: evicted workers are restarted,"
                " and each device has one holder, whatever was configured",
                stacklevel=3,
            )
        return Configured(self.managed, False, OffloadStrategy.RESTART)


def _read_managed(
    value: ManagedDevices | None, now: tuple[int, ...], default: tuple[int, ...]
) -> tuple[int, ...]:
    if value is None:
        return now
    if isinstance(value, str):
        return default if value == "auto" else parse_managed_devices(value)
    indices = tuple(index for each in value for index in _read_index(each))
    if len(set(indices)) != len(indices):
        raise InvalidDevice(f"managed_devices: {list(value)!r} names a device twice")
    return tuple(sorted(indices))


def _read_index(value: int | str) -> tuple[int, ...]:
    if isinstance(value, str):
        return parse_managed_devices(value)
    # `True` is an int to Python and a mistake to everybody else.
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidDevice(f"managed_devices: {value!r} is not a device; write 0 or 'cuda:0'")
    return (value,)


def _read_strategy(
    value: OffloadStrategy | str | None, now: OffloadStrategy, default: OffloadStrategy
) -> OffloadStrategy:
    if value is None:
        return now
    if value == "auto":
        return default
    try:
        return OffloadStrategy(value)
    except ValueError:
        raise InvalidRequest(
            f"offload_strategy: {value!r} is neither 'restart' nor 'cpu'"
        ) from None


def _read_packing(value: bool | Literal["auto"] | None, now: bool, default: bool) -> bool:
    if value is None:
        return now
    if value == "auto":
        return default
    if not isinstance(value, bool):
        raise InvalidRequest(f"allow_multiple_per_device: {value!r} is neither True nor False")
    return value
