"""FastAPI's exit stacks of a request: they finish dependencies, and show whether the request has failed.

The function stack closes before the response is sent, the request stack after it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import TracebackType

from starlette.types import Scope

from taskflow_otel.compat.fastapi import function_stack, request_stack
from taskflow_otel.request.outbox import Outbox

ExitCallback = Callable[
    [type[BaseException] | None, BaseException | None, TracebackType | None], Awaitable[bool | None]
]


def attach(outbox: Outbox, scope: Scope) -> None:
    """Connect an outbox to the end of its request, once."""
    if not outbox.attached:
        outbox.attached = True
        # The function stack closes after all dependencies were entered, so the outbox is called before they finish.
        function_stack(scope).callback(request_stack(scope).push_async_exit, outbox.leave_route)


def at_the_end_of(stack: AsyncExitStack, callback: ExitCallback) -> None:
    """Call back last, after all present and future entries of the stack have been closed."""
    earlier = stack.pop_all()
    stack.push_async_exit(callback)
    stack.push_async_exit(earlier)
