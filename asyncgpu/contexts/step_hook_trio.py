"""The step hook for trio: an instrument around every step of every task."""

from __future__ import annotations

import trio
from trio.lowlevel import RunVar, Task

from .. import ambient
from ..home_loop import home_loop
from .step_stack import StepStack

__all__ = ["TrioGuard", "TrioHook", "trio_hook"]


class TrioHook(trio.abc.Instrument):
    """See `StepHook`. Created in the run that it hooks. trio drops an instrument that raises."""

    def __init__(self) -> None:
        self.loop = home_loop()
        self.stack = StepStack()
        self._users = 0
        trio.lowlevel.add_instrument(self)
        _hook.set(self)

    def before_task_step(self, task: Task) -> None:
        session = task.context.get(ambient.session)
        if session is not None:
            self.stack.push_step(session)

    def after_task_step(self, task: Task) -> None:
        self.stack.unwind()

    def retain(self) -> None:
        self._users += 1

    def release(self) -> None:
        self._users -= 1
        if not self._users:
            trio.lowlevel.remove_instrument(self)
            _hook.set(None)
            # Nobody calls `after_task_step` for the step that this is part of.
            self.stack.unwind()

    def task_name(self) -> str:
        return trio.lowlevel.current_task().name

    def guard(self) -> TrioGuard:
        return TrioGuard()

    async def end_step(self) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()

    def watch(self) -> None:
        """Nothing to do: `after_task_step` comes at the end of every step."""


class TrioGuard:
    """See `TaskGuard`; a cancel scope around the body.

    So an async generator that holds a session across a ``yield`` must be closed in its own task,
    as trio asks of every generator with a cancel scope.
    """

    __slots__ = ("_scope",)

    def __init__(self) -> None:
        self._scope = trio.CancelScope()
        self._scope.__enter__()

    def cancel(self) -> None:
        self._scope.cancel()

    async def settle(self, error: BaseException | None) -> bool:
        try:
            kind = None if error is None else type(error)
            swallowed = self._scope.__exit__(kind, error, None)
        except RuntimeError:
            # Left out of order, or in the task that finalises an abandoned generator; trio has
            # made the best of it, and the session reports the former itself.
            return isinstance(error, trio.Cancelled)
        return isinstance(error, trio.Cancelled) and not swallowed


def trio_hook(*, install: bool) -> TrioHook | None:
    """Return the hook of the running trio; without `install`, None if it has none."""
    hook = _hook.get()
    return TrioHook() if hook is None and install else hook


_hook: RunVar[TrioHook | None] = RunVar("asyncgpu_step_hook", None)
