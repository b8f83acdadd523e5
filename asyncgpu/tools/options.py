"""`RunOptions`: how one run is to be done, checked as it is made."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InvalidRequest
from ..policy.look_ahead import check_look_ahead
from ..units import parse_timeout
from .progress import ProgressCallback

__all__ = ["RunOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The keyword arguments of `ToolPool.run`, which documents them."""

    timeout: float | None = None
    item_timeout: float | None = None
    on_error: str = "raise"
    priority: int = 0
    progress: bool | ProgressCallback | None = None
    seed: int | None = None
    cancel_grace: float | None = None
    admitted: bool = False
    """It is part of a call that was admitted already; not an argument of `run`."""
    look_ahead: int | None = None

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "collect"):
            raise InvalidRequest(f"on_error: {self.on_error!r} is neither 'raise' nor 'collect'")
        for name in ("timeout", "item_timeout", "cancel_grace"):
            parse_timeout(getattr(self, name), what=name)
        for name in ("priority", "seed"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise InvalidRequest(f"{name}: {value!r} is not an int")
        check_look_ahead(self.look_ahead)
        if not (
            self.progress is None or isinstance(self.progress, bool) or callable(self.progress)
        ):
            raise InvalidRequest(f"progress: {self.progress!r} is neither True nor a callable")
