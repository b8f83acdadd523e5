"""What a session needs to end its task's body when its stream cannot be applied."""

from __future__ import annotations

from typing import Protocol

__all__ = ["TaskGuard"]


class TaskGuard(Protocol):
    """Stands around the body of one session, in the task that entered it."""

    def cancel(self) -> None:
        """Cancel the body; idempotent. Called by the hook, hence it never raises."""
        ...

    async def settle(self, error: BaseException | None) -> bool:
        """Take the guard down as the body is left with `error`; our own cancellation ends here.

        Return True if somebody else has cancelled the task too, so that `error` must pass.
        """
        ...
