"""`Employer`: what a station asks of the crew it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..ports import Reply
from .assignment import Assignment
from .nested import Serve

if TYPE_CHECKING:
    from .station import Station

__all__ = ["Employer"]


class Employer(Protocol):
    """The crew, as a station sees it. Every call comes from the loop's thread."""

    @property
    def serve(self) -> Serve:
        """Answers what its tool asks of other tools."""
        ...

    def station_opened(self, station: Station) -> None:
        """Its tool is loaded."""
        ...

    def station_idle(self, station: Station) -> None:
        """It has answered: feed it, or let it rest."""
        ...

    def station_failed(self, station: Station, error: Exception) -> None:
        """It got no device, no process, or the tool did not load."""
        ...

    def station_gone(self, station: Station) -> None:
        """Its worker is gone: evicted, dead, or being replaced."""
        ...

    def out_of_memory(self, station: Station, assignment: Assignment, reply: Reply) -> None:
        """A micro-batch did not fit into its memory; its work has not heard of it yet."""
        ...

    def station_broken(self, station: Station, error: Exception) -> None:
        """A bug of ours: nobody may wait for this station for ever."""
        ...
