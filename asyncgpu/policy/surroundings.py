"""Surroundings: what is managed, what other programs do, and what is lost."""

from __future__ import annotations

from ..errors import InvalidRequest
from .claims import ClaimState
from .device_actions import Tell
from .device_inputs import ClaimKind, Configured, LocksTried, Lost, Measured
from .device_spec import device_names
from .offload import OffloadStrategy
from .requests import Requests
from .serving import Serving

__all__ = ["Surroundings"]


class Surroundings:
    """Takes in what changes around the claims, and lets them follow.

    Args:
        serving: serves those that wait.
        requests: lets everybody queue anew, where it takes that.
    """

    def __init__(self, serving: Serving, requests: Requests) -> None:
        self._serving = serving
        self._requests = requests
        self._occupancy = serving.occupancy

    def configured(self, input: Configured, now: float) -> None:
        """Manage other devices, or in another way."""
        self._check_managed(input.managed)
        waiting = self._requests.unsettle()
        self._occupancy.configure(input.managed, packing=input.packing)
        self._serving.strategy = input.strategy
        self._requests.settle_anew(waiting, now)
        for resident in self._serving.victims.idle:
            if not self._occupancy.manages(resident.devices):
                self._serving.evict(resident, None, "its device is no longer managed")

    def locks_tried(self, input: LocksTried, now: float) -> None:
        """Learn which devices are this program's, and which another one's."""
        for index in input.ours:
            self._occupancy.lock(self._occupancy.devices[index])
        for index, by in input.taken.items():
            self._occupancy.take(self._occupancy.devices[index], by)
        touched = (*input.ours, *input.taken)
        # Whoever laid a hand on what is taken now looks elsewhere.
        self._serving.agenda.fill(touched)
        self._serving.agenda.touch(touched)

    def measured(self, input: Measured, now: float) -> None:
        """Learn what other programs use of a device."""
        device = self._occupancy.devices[input.device]
        if device.others != input.others:
            self._occupancy.squeeze(device, input.others)
            self._serving.agenda.fill((device.index,))
            self._serving.agenda.touch((device.index,))

    def lost(self, input: Lost, now: float) -> None:
        """Take down whoever needs a device that is gone."""
        device = self._occupancy.devices[input.device]
        if device.lost is not None:
            return
        waiting = self._requests.unsettle()
        self._occupancy.lose(device, input.reason)
        self._requests.settle_anew(waiting, now)
        why = f"cuda:{device.index} is lost: {input.reason}"
        for claim in list(device.claims.values()):
            if claim.shape.kind is not ClaimKind.RESIDENT:
                self._serving.actions.append(Tell(claim.id, why))
            elif claim.state is not ClaimState.EVICTING:
                # Nothing can be moved off a device that is gone.
                self._serving.evict(claim, None, why, OffloadStrategy.RESTART)

    def _check_managed(self, managed: tuple[int, ...]) -> None:
        known = self._occupancy.devices
        unknown = tuple(index for index in managed if index not in known)
        if unknown:
            have = device_names(tuple(known)) if known else "none"
            raise InvalidRequest(f"cannot manage {device_names(unknown)}; this machine has {have}")
        if len(set(managed)) != len(managed):
            raise InvalidRequest(f"managed devices: {device_names(managed)} names one twice")
        if known and not managed:
            raise InvalidRequest("managed devices: name at least one")
