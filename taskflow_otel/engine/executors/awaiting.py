"""How a coroutine of user code is awaited, so that it can be ended even if it swallows its cancellation."""

from __future__ import annotations

import inspect
import logging
import types
from asyncio import Task
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from types import CodeType
from typing import Any

from taskflow_otel.compat.coroutines import suspended_frames
from taskflow_otel.engine.executors.base import Call
from taskflow_otel.model.stack import Place, place_of

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")


@types.coroutine
def awaited(result: Any, call: Call) -> Generator[Any, Any, Any]:
    """Await the result of a function, and again as long as the result is an awaitable.

    A coroutine is awaited in a way that can end it even if it swallows its cancellation: once the call is abandoned, a
    cancellation is no longer passed on, and the coroutine is closed where it waits.
    """
    # One generator for the whole wait: each further one costs a running task an object and each of its steps a call.
    while result is not None:
        # The result of an async function. The check for other awaitables costs more than the await.
        if type(result) is not types.CoroutineType:
            if not inspect.isawaitable(result):
                return result
            result = yield from _any(result)
            continue
        step: Callable[[Any], Any] = result.send
        argument: Any = None
        while True:
            try:
                waits_for = step(argument)
            except StopIteration as done:
                following = done.value
                break
            try:
                argument = yield waits_for
                step = result.send
            except BaseException as exc:
                if call.abandoned or issubclass(type(exc), GeneratorExit):
                    _close(result, call)
                    raise
                step, argument = result.throw, exc
        result = following
    return None


async def _any(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


_BY_HAND, _OWN = awaited.__code__, {awaited.__code__, _any.__code__}


def places_in(attempt: Task[None]) -> list[Place]:
    """Where the function of a suspended attempt is, the outermost place first; empty if it is not in the function."""
    frames = suspended_frames(attempt, lambda frame: frame.f_locals["result"] if frame.f_code is _BY_HAND else None)
    own = [index for index, frame in enumerate(frames) if frame.f_code in _OWN]
    return [place_of(frame) for frame in frames[own[-1] + 1 :]] if own else []


def below_awaited(places: Sequence[Place]) -> Sequence[Place]:
    """Of the places of a thread that runs the event loop, those of the awaited function; empty if it is not in one."""
    own = [index for index, place in enumerate(places) if place.file == __file__]
    return places[own[-1] + 1 :] if own else ()


def below_code(places: Sequence[Place], code: CodeType) -> Sequence[Place]:
    """Of the places of a thread, those from a function on; empty if the thread is not in it."""
    whole = (code.co_filename, code.co_name)
    first = next((index for index, place in enumerate(places) if (place.file, place.function) == whole), None)
    return () if first is None else places[first:]


def _close(coroutine: Coroutine[Any, Any, Any], call: Call) -> None:
    try:
        coroutine.close()
    except BaseException as exc:  # the user's clean-up code may raise anything, and no one waits for it any more
        logger.error("%s could not be closed: %r", call.definition.name, exc)
