"""`ResultCache`: what a user gives to his pools so that they remember answers."""

from __future__ import annotations

from .. import ambient
from ..errors import InvalidRequest, RequestError
from ..units import Size, parse_size
from .answers import Answers, CacheStats
from .result_key import owner_of
from .tool import Tool

__all__ = ["ResultCache", "check_cache"]


class ResultCache:
    """Keeps the answers of deterministic tools; the least recently used go first.

    ::

        cache = ResultCache("1GiB")
        async with ToolPool(cache=cache) as pool:
            ...

    Two items have one answer if the class and the configuration of the tool, the type of the item
    and its `Tool.key` are equal. Answers are kept as pickles, so every caller gets a copy of his
    own. Equal items that are in flight at the same time, in whatever calls, are computed once; if
    that fails or is cancelled, it is the turn of another one of them. Errors are never kept.

    A cache may serve several pools of one event loop, at the same time or one after the other. It
    knows nothing of a tool's weights or code: `clear` it when they have changed.
    """

    def __init__(self, max_bytes: Size = "256MiB") -> None:
        """Begin empty.

        Args:
            max_bytes: what all answers together may weigh. 0 keeps none; equal items in flight are
                computed once even so.

        Raises:
            InvalidRequest: it is not a size.
        """
        self.answers = Answers(parse_size(max_bytes, what="max_bytes"))
        self._loop: object = None
        self._pools = 0

    def stats(self) -> CacheStats:
        """Return a snapshot."""
        return self.answers.stats()

    def clear(self, tool: Tool | None = None) -> None:
        """Forget every answer, or those of one tool; what is in flight goes on."""
        owner = None if tool is None else owner_of(tool)
        self.answers.forget(
            lambda key: owner is None or (isinstance(key, tuple) and key[0] == owner)
        )

    def attach(self) -> None:
        """Serve one more pool of the running event loop.

        Raises:
            RequestError: it serves pools of another loop.
        """
        loop = ambient.running_loop()
        if self._pools and self._loop is not loop:
            raise RequestError("this ResultCache serves the pools of another event loop")
        self._loop = loop
        self._pools += 1

    def detach(self) -> None:
        """Serve one pool less."""
        self._pools -= 1


def check_cache(cache: object) -> ResultCache | None:
    """Return `cache`, if it may be a pool's.

    Raises:
        InvalidRequest: it is neither None nor a `ResultCache`.
    """
    if cache is None or isinstance(cache, ResultCache):
        return cache
    raise InvalidRequest(f"cache: {cache!r} is not a ResultCache; write ResultCache('1GiB')")
