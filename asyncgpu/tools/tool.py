"""`Tool`: a model wrapped in a class. What a user subclasses, and what crosses to a worker.

An instance lives twice. In the parent it is a description: its constructor arguments are its
configuration, and `cost` and `key` are asked there. A copy of it travels to a worker, where `load`
makes it real and `run` answers. So the constructor must stay light, and `load` do the work.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import AsyncIterable, Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

from ..errors import InvalidRequest
from ..policy.device_spec import parse_device
from ..units import Size, parse_size
from .identity import Identity, encoded_identity

__all__ = ["FunctionTool", "Items", "Tool", "tool"]

Items = Iterable[Any] | AsyncIterable[Any]
"""What a run may be given: a list, or a source that is drawn as it goes."""


class Tool:
    """A model, or any other expensive thing that answers lists of items.

    Subclass it, give it a `load` and a `run`, and call it: ``await Embed()(texts)``. The
    constructor's arguments are the configuration: tools of equal class and equal arguments share
    warm workers, others do not.
    """

    device: str = "cuda"
    """Where it runs: ``"cpu"``, ``"cuda"``, ``"cudax2"``, ``"cuda:0"``, ``"cuda:0,1"``."""

    vram: Size | None = None
    """Bytes it needs on each device; None: not known, so it shares a device with no context."""

    max_batch: int | None = None
    """The most items one `run` may get; None: as many as keep the workers evenly busy."""

    movable: bool = True
    """`to` works, so that eviction may move it to the CPU instead of ending its process."""

    resident: bool = True
    """Stays loaded between calls; False: load, run and stop on every call."""

    deterministic: bool = True
    """Equal items have equal answers; False switches the merging of equal items off."""

    pin_visible_devices: bool = False
    """The worker sees only its own devices, renumbered from ``cuda:0``."""

    cpus_per_worker: int = 1
    """CPU threads of one worker of a ``"cpu"`` tool."""

    recycle_after: int | None = None
    """A worker that has served so many calls of `run` is replaced by a new one; None: never."""

    recycle_memory: Size | None = None
    """A worker whose host memory has grown by so much since `load` is replaced; None: never."""

    python: str | None = None
    """Interpreter of the worker; None: this one."""

    env: Mapping[str, str] | None = None
    """Overlaid on the worker's environment before anything is imported there."""

    devices: Sequence[str] = ()
    """In the worker, from before `load`: torch's name of every device it has been given."""

    indices: Sequence[int] = ()
    """In the worker, from before `load`: their logical indices; empty on the CPU."""

    _configuration: Mapping[str, Any] | None = None
    _identity: Identity | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Tool:
        """Remember the constructor's arguments: they are the tool's identity."""
        self = super().__new__(cls)
        # Unpickling and `copy` call this without arguments and restore the state afterwards; wrong
        # arguments are reported by `__init__` itself, in the caller's own words.
        try:
            bound = inspect.signature(cls).bind(*args, **kwargs)
        except (TypeError, ValueError):
            return self
        bound.apply_defaults()
        self._configuration = dict(bound.arguments)
        return self

    # ------------------------------------------------------------------- in the worker

    def load(self, device: str) -> None:
        """Load the model onto `device`, in the worker, once."""

    def run(self, items: list[Any]) -> list[Any]:
        """Answer `items`, in the worker: a list of the same length, in the same order.

        A parameter named `seeds` receives one int for each item when the caller gives a seed.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no run()")

    def stream(self, item: Any) -> Iterator[Any]:
        """Answer one item bit by bit, as a language model does."""
        raise NotImplementedError(f"{type(self).__name__} defines no stream()")

    def to(self, device: str) -> None:
        """Move the model to `device`, in the worker; by default every attribute with a ``to``."""
        for name, value in vars(self).items():
            move = getattr(value, "to", None)
            # Modules move in place and return themselves; tensors return a moved copy.
            if callable(move) and not isinstance(value, type):
                setattr(self, name, move(device))

    def close(self) -> None:
        """Give back what `load` took, in the worker, before it ends."""

    # ------------------------------------------------------------------- in the parent

    def cost(self, item: Any) -> float:
        """Estimate the work of `item`, in any fixed unit; finite and at least 0."""
        return 1.0

    def key(self, item: Any) -> Hashable | None:
        """Return what makes two items equal; equal keys are computed once. None: never merged."""
        try:
            hash(item)
        except TypeError:
            return None
        return (type(item), item)

    def on(self, device: str, *, vram: Size | None = None) -> Tool:
        """Return the same tool, placed elsewhere.

        Raises:
            InvalidDevice: `device` cannot be read.
        """
        parse_device(device)
        other = copy.copy(self)
        other.device = device
        if vram is not None:
            parse_size(vram, what="vram")
            other.vram = vram
        return other

    async def __call__(self, items: Items) -> list[Any]:
        """Answer `items` with whatever is at hand, in order.

        The pool around the caller, else the ``persist()`` block, else the runtime's default pool,
        else a worker started for this call.

        Raises:
            NoRuntime: no runtime is open here.
            PartialFailure: some items failed; it holds the answers of the others.
        """
        from .dispatch import dispatch

        return await dispatch(self, items)

    @property
    def name(self) -> str:
        """What logs, errors and timelines call it."""
        return type(self).__name__

    @property
    def identity(self) -> Identity:
        """Equal for tools that may share a warm worker."""
        # The number is not remembered, because a copy of this tool is not this tool.
        return self.lasting_identity or (type(self), id(self))

    @property
    def lasting_identity(self) -> Identity | None:
        """The identity, if it says all about the tool; None: it is but this instance's."""
        if self._identity is None:
            self._identity = encoded_identity(type(self), self._configuration)
        return self._identity


class FunctionTool(Tool):
    """A plain function, items to answers, as a `Tool`. Made by the `tool` decorator."""

    def __init__(self, function: Callable[[list[Any]], list[Any]], **options: Any) -> None:
        self._function = function
        self._cost: Callable[[Any], float] | None = options.pop("cost", None)
        self._key: Callable[[Any], Hashable | None] | None = options.pop("key", None)
        for option, value in options.items():
            setattr(self, option, value)
        self.__module__ = function.__module__
        self.__qualname__ = function.__qualname__
        self.__doc__ = function.__doc__

    @property
    def name(self) -> str:
        return self._function.__name__

    def run(self, items: list[Any]) -> list[Any]:
        return self._function(items)

    def cost(self, item: Any) -> float:
        return 1.0 if self._cost is None else self._cost(item)

    def key(self, item: Any) -> Hashable | None:
        return super().key(item) if self._key is None else self._key(item)

    def __reduce_ex__(self, protocol: Any) -> str | tuple[Any, ...]:
        """Cross by name where the decorated name is this very object, else by value.

        The function itself cannot be found by its name any more: the decorator put the tool there.
        """
        found: Any = sys.modules.get(self.__module__)
        for part in self.__qualname__.split("."):
            found = getattr(found, part, None)
        if found is self and self.__module__ != "__main__":
            return str(self.__qualname__)
        by_value: tuple[Any, ...] = super().__reduce_ex__(protocol)  # type: ignore[assignment]
        return by_value


_OPTIONS = frozenset(
    {
        "cost", "cpus_per_worker", "deterministic", "device", "env", "key", "max_batch",
        "movable", "pin_visible_devices", "python", "recycle_after", "recycle_memory", "resident",
        "vram",
    }
)  # fmt: skip


@overload
def tool(function: Callable[[list[Any]], list[Any]], /) -> FunctionTool: ...
@overload
def tool(**options: Any) -> Callable[[Callable[[list[Any]], list[Any]]], FunctionTool]: ...
def tool(
    function: Callable[[list[Any]], list[Any]] | None = None, /, **options: Any
) -> FunctionTool | Callable[[Callable[[list[Any]], list[Any]]], FunctionTool]:
    """Wrap a plain function, a list of items to a list of answers, as a `Tool`.

    Args:
        function: the function, when used without parentheses.
        **options: `Tool`'s attributes (`device`, `vram`, `max_batch`, ...), and `cost` and `key`
            as functions of one item.

    Raises:
        InvalidRequest: an option that does not exist.
    """
    unknown = sorted(options.keys() - _OPTIONS)
    if unknown:
        raise InvalidRequest(
            f"tool() has no option {unknown[0]!r}; it takes {', '.join(sorted(_OPTIONS))}"
        )
    if function is not None:
        return FunctionTool(function, **options)
    return lambda decorated: FunctionTool(decorated, **options)


def has_own_cost(tool: Tool) -> bool:
    """Whether its items differ in cost; False lets a batch skip asking for each."""
    if isinstance(tool, FunctionTool):
        return tool._cost is not None
    return type(tool).cost is not Tool.cost


def has_own_key(tool: Tool) -> bool:
    """Whether it says itself which items are equal."""
    if isinstance(tool, FunctionTool):
        return tool._key is not None
    return type(tool).key is not Tool.key
