"""FastAPI's exit stacks of a request: where it finishes dependencies, and where it shows that a request has failed.

The function stack is left before the response is sent, the request stack after it.
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
    """Have the request's end tell the outbox how it went, once."""
    if not outbox.attached:
        outbox.attached = True
        # The function stack is left when all dependencies have been entered, so the outbox is told before they finish.
        function_stack(scope).callback(request_stack(scope).push_async_exit, outbox.leave_route)


def at_the_end_of(stack: AsyncExitStack, callback: ExitCallback) -> None:
    """Call back when all that is and will be in the stack has been left, whatever was entered before."""
    earlier = stack.pop_all()
    stack.push_async_exit(callback)
    stack.push_async_exit(earlier)
