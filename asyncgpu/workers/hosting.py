"""The tool inside its worker: loaded, moved, asked, closed, and its answers checked."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a worker starts without asyncio, which the ports need
    from ..ports import Preparation

__all__ = ["ToolHost"]


class ToolHost:
    """Holds the one tool of a worker. Whatever the tool raises passes through."""

    def __init__(self) -> None:
        self._tool: Any = None
        self._takes_seeds: bool | None = None

    @property
    def tool(self) -> Any:
        """The tool; None: none is loaded."""
        return self._tool

    def load(
        self, tool: Any, devices: Sequence[str], preparation: Preparation | None = None
    ) -> None:
        """Make `tool` this worker's; it learns all its devices before it loads on the first."""
        if preparation is not None:
            _prepare(preparation)
        tool.devices = tuple(devices)
        tool.load(devices[0])
        self._tool = tool

    def move(self, devices: Sequence[str], indices: Sequence[int] = ()) -> None:
        """Run the tool's `to`; afterwards it stands on `devices`, which are `indices` to us."""
        tool = self._loaded()
        tool.to(devices[0])
        tool.devices, tool.indices = tuple(devices), tuple(indices)

    def run(self, items: list[Any], seeds: list[int] | None) -> list[Any]:
        """Return the answers to `items`.

        Raises:
            TypeError: they are not a list.
            ValueError: they are more or fewer than the items.
        """
        tool, count = self._loaded(), len(items)
        if seeds is not None and self._accepts_seeds():
            results = tool.run(items, seeds=seeds)
        else:
            results = tool.run(items)
        if not isinstance(results, list):
            raise TypeError(f"run() must return a list, not {type(results).__qualname__}")
        if len(results) != count:
            raise ValueError(f"run() returned {len(results)} results for {count} items")
        return results

    def close(self) -> None:
        """Close the tool, if one was loaded."""
        if self._tool is not None:
            tool, self._tool = self._tool, None
            tool.close()

    def _loaded(self) -> Any:
        if self._tool is None:
            raise RuntimeError("no tool is loaded in this worker")
        return self._tool

    def _accepts_seeds(self) -> bool:
        if self._takes_seeds is None:
            import inspect

            parameters = inspect.signature(self._tool.run).parameters.values()
            self._takes_seeds = any(
                parameter.name == "seeds" or parameter.kind is parameter.VAR_KEYWORD
                for parameter in parameters
            )
        return self._takes_seeds


def _prepare(preparation: Preparation) -> None:
    path, arguments = preparation
    module, _, function = path.partition(":")
    getattr(import_module(module), function)(*arguments)
