"""Counts the storages that torch's operators make in one thread, and refuses them over budget.

What is new is found by looking at what an operator returns: a storage that no argument has, and
that nobody is charged for, was made by it. Three kinds of operators need more: those that say how
much they will make, and are refused before they run; those that let a storage grow in place; and
those that bring in a storage made without an operator (`torch.tensor`, `torch.from_numpy`,
`torch.load`, `copy.deepcopy`).

Not seen, and so neither charged nor refused:

* temporaries inside one operator, a higher-order one (`torch.cond`) included: its results count;
* storages made by ``torch.UntypedStorage``, `torch.frombuffer`, `torch.from_dlpack` or a C++
  extension's own allocator, unless an operator of the third kind brings them in;
* storages enlarged by ``UntypedStorage.resize_``, or by an operator that then fails;
* code that runs with dispatch modes disabled, and the allocations of a compiled graph;
* the insides of opaque tensors: MKL-DNN's, and subclasses without ``__tensor_flatten__``;
* other threads, those started here included.

A storage made outside that is set into a tensor by ``set_(storage, offset, size)`` is taken for one
that is being loaded, and charged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ...ports import Refusal
from .growth import Growth
from .memory import VirtualMemory
from .mode_stack import insert_mode, remove_mode
from .plans import Plan, plan_for
from .tensors import storages

__all__ = ["Meter"]

_HOST_IS_FULL = "DefaultCPUAllocator: can't allocate memory"


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The dispatch mode of one thread, on torch's stack while some memory is applied there.

    One for each thread and not for each memory: with two on the stack the outer one would see, and
    charge, what the inner one's operators make.

    Attributes:
        memory: what is charged now; None: nothing is applied.
    """

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # By default torch wraps `__torch_dispatch__` in what imports its compiler, at the first
        # operator, for seconds.
        return False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.memory: VirtualMemory | None = None

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let `torch.compile` compile instead of falling back to single operators."""
        return True

    def enter(self, memory: VirtualMemory) -> VirtualMemory | None:
        """Charge `memory` from now on; return what `leave` takes."""
        outer = self.memory
        self.memory = memory
        if outer is None:
            insert_mode(self)
        return outer

    def leave(self, outer: VirtualMemory | None) -> None:
        """End what the `enter` began that returned `outer`."""
        self.memory = outer
        if outer is None:
            remove_mode(self)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        memory = self.memory
        if memory is None:
            return func(*args, **kwargs)
        plan = plan_for(func)
        asked = _ask(memory, plan, args, kwargs)
        growth = None if plan.targets is None else Growth(plan.targets(args, kwargs), args)
        try:
            made = func(*args, **kwargs)
        except BaseException as error:
            if asked:
                memory.give_back(asked)
            if isinstance(error, RuntimeError) and _HOST_IS_FULL in str(error):
                raise _host_is_full(memory, error) from None
            raise
        denial = _settle(memory, plan, asked, made, growth, (args, kwargs))
        if denial is not None:
            # Nothing of it may live on in the traceback, least of all the memory.
            del made, growth, args, kwargs
            raise _out_of_memory(memory, denial)
        return made


class _Denial(NamedTuple):
    nbytes: int
    refusal: Refusal


def _ask(memory: VirtualMemory, plan: Plan, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Take what the operator is going to make, as far as that is known; 0: it is not."""
    nbytes = 0 if plan.size is None else plan.size(args, kwargs)
    if not nbytes:
        return 0
    taken = memory.take(nbytes)
    if isinstance(taken, Refusal):
        raise _out_of_memory(memory, _Denial(nbytes, taken))
    return taken


def _settle(
    memory: VirtualMemory, plan: Plan, asked: int, made: Any, growth: Growth | None, inputs: Any
) -> _Denial | None:
    """Charge what an operator has made; what is refused is undone, as far as it can be."""
    new = _new_storages(memory, plan, made, inputs)
    if asked:
        if [storage.nbytes() for storage in new] == [asked]:
            memory.claims.add(new[0], memory, asked)
            return None
        memory.give_back(asked)
    sizes = [(storage, storage.nbytes()) for storage in new]
    if growth is None:
        return _charge(memory, sizes)
    made_here = {id(storage) for storage in new}
    grown = [each for each in growth.grown() if id(each[0]) not in made_here]
    denial = _charge(memory, [*sizes, *grown])
    if denial is not None:
        growth.undo()
    return denial


def _new_storages(memory: VirtualMemory, plan: Plan, made: Any, inputs: Any) -> list[Any]:
    known = {} if plan.lifts or plan.loads else storages(inputs)
    return [
        storage
        for key, storage in storages(made).items()
        if key not in known and storage not in memory.claims
    ]


def _charge(memory: VirtualMemory, sizes: Sequence[tuple[Any, int]]) -> _Denial | None:
    """Charge all of these storages, or none."""
    claimed: list[tuple[Any, int]] = []
    for storage, nbytes in sizes:
        taken = memory.take(nbytes) if nbytes else 0
        if isinstance(taken, Refusal):
            for _, earlier in claimed:
                memory.give_back(earlier)
            return _Denial(nbytes, taken)
        claimed.append((storage, taken))
    for storage, taken in claimed:
        if taken:
            memory.claims.add(storage, memory, taken)
    return None


def _out_of_memory(memory: VirtualMemory, denial: _Denial) -> Exception:
    """Return torch's error; `VirtualMemory.translated` reads the refusal that it carries."""
    error = torch.OutOfMemoryError(memory.message(denial.nbytes, denial.refusal))
    error.refusal = denial.refusal  # type: ignore[attr-defined]
    return error


def _host_is_full(memory: VirtualMemory, error: RuntimeError) -> Exception:
    return torch.OutOfMemoryError(
        f"CUDA out of memory: the host has no memory for virtual device cuda:{memory.device} "
        f"({str(error).partition(chr(10))[0]})"
    )
