"""`Crews`: which tools have workers here, each tool its crew."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass

import anyio

from ..errors import RequestError
from .crew import Crew
from .identity import Identity
from .launcher import Launcher
from .nested import Serve
from .site import Site
from .tool import Tool

__all__ = ["Crews"]


@dataclass(frozen=True, slots=True)
class _Key:
    """What tells lasting crews apart; the crew of a one-shot call has a key of its own."""

    identity: Identity
    device: str
    instance: str | None


class Crews:
    """The crews of one workforce."""

    def __init__(
        self,
        launcher: Launcher,
        *,
        seats: Callable[[Tool], int],
        among: frozenset[int] | None,
        pinned: bool,
        keeps: bool,
        serve: Serve,
    ) -> None:
        """Engage nobody yet; the parameters are those of `Workforce`."""
        self._launcher = launcher
        self._seats = seats
        self._among = among
        self._pinned = pinned
        self._keeps = keeps
        self._serve = serve
        self._crews: dict[Hashable, Crew] = {}
        self._closed = False

    def __iter__(self) -> Iterator[Crew]:
        return iter(self._crews.values())

    def stays(self, tool: Tool) -> bool:
        """Whether its workers stay for the next call."""
        return self._keeps and tool.resident

    def engage(self, tool: Tool, instance: str | None = None) -> Crew:
        """Return the tool's crew, made now if there is none.

        Raises:
            RequestError: the tool cannot run here at all, or the workforce was closed.
        """
        if self._closed:
            raise RequestError(f"{tool.name}: the pool or block of its workers was closed")
        self._launcher.check(tool)
        key: Hashable = _key(tool, instance) if self.stays(tool) else object()
        crew = self._crews.get(key)
        if crew is None:
            crew = Crew(tool, self._seats(tool), self._launcher, self._site(tool, key), self._serve)
            self._crews[key] = crew
        return crew

    def find(self, tool: Tool, instance: str | None = None) -> Crew | None:
        """Return the crew of a tool, if it was engaged."""
        return self._crews.get(_key(tool, instance))

    def find_named(self, instance: str) -> Crew | None:
        """Return the crew of an instance name, whatever its tool."""
        for key, crew in self._crews.items():
            if isinstance(key, _Key) and key.instance == instance:
                return crew
        return None

    async def dismiss(self, crew: Crew) -> None:
        """Stop a crew's workers; what still waits for them fails."""
        self._crews = {key: other for key, other in self._crews.items() if other is not crew}
        with anyio.CancelScope(shield=True):
            await crew.aclose()

    async def aclose(self) -> None:
        """Stop every worker, all at once; what still waits fails."""
        self._closed = True
        crews = list(self)
        self._crews.clear()
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                for crew in crews:
                    tasks.start_soon(crew.aclose)

    def _site(self, tool: Tool, key: Hashable) -> Site:
        return Site(
            self._launcher.devices,
            tool,
            among=self._among,
            group=(id(self), key),
            pinned=self._pinned,
            in_process=self._launcher.threads,
        )


def _key(tool: Tool, instance: str | None) -> _Key:
    return _Key(tool.identity, tool.device, instance)
