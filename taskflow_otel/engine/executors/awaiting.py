"""How a coroutine of user code is awaited, so that it can be ended even if it swallows its cancellation."""

from __future__ import annotations

import inspect
import logging
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from taskflow_otel.engine.executors.base import Call

logger = logging.getLogger("taskflow_otel.engine")


async def awaited(result: Any, call: Call) -> Any:
    """Await the result of a function, and again as long as the result is an awaitable."""
    while result is not None and inspect.isawaitable(result):
        result = await (leashed(result, call) if inspect.iscoroutine(result) else result)
    return result


@types.coroutine
def leashed(coroutine: Coroutine[Any, Any, Any], call: Call) -> Generator[Any, Any, Any]:
    """Await a coroutine in a way that can end it even if it swallows its cancellation.

    Once the call is abandoned, a cancellation is no longer passed on: the coroutine is closed where it waits.
    """
    step: Callable[[Any], Any] = coroutine.send
    argument: Any = None
    while True:
        try:
            awaited = step(argument)
        except StopIteration as done:
            return done.value
        try:
            argument = yield awaited
            step = coroutine.send
        except BaseException as exc:
            if call.abandoned or issubclass(type(exc), GeneratorExit):
                _close(coroutine, call)
                raise
            step, argument = coroutine.throw, exc


def _close(coroutine: Coroutine[Any, Any, Any], call: Call) -> None:
    try:
        coroutine.close()
    except BaseException as exc:  # the user's clean-up code may raise anything, and no one waits for it any more
        logger.error("%s could not be closed: %r", call.definition.name, exc)
