"""FastAPI's exit stacks of a request: they finish dependencies, and show whether the request has failed.

The function stack closes before the response is sent, the request stack after it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import TracebackType

ExitCallback = Callable[
    [type[BaseException] | None, BaseException | None, TracebackType | None], Awaitable[bool | None]
]


def at_the_end_of(stack: AsyncExitStack, callback: ExitCallback) -> None:
    """Call back last, after all present and future entries of the stack have been closed."""
    earlier = stack.pop_all()
    stack.push_async_exit(callback)
    stack.push_async_exit(earlier)
