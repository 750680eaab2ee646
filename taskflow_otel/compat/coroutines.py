"""Coroutines of the event loop: the local variables of running ones, where suspended ones wait, and their contexts."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any

# What stands between a coroutine and the object that it awaits, and tells nobody which one that is.
_BETWEEN = {"async_generator_asend", "async_generator_athrow", "coroutine_wrapper"}


def variables_of(code: CodeType) -> list[Mapping[str, Any]]:
    """The local variables of each running coroutine of this code, found by the task that awaits it."""
    found = []
    for task in asyncio.all_tasks():
        # From the task's coroutine inward: a coroutine of the application may await it.
        coroutine: Any = task.get_coro()
        while (frame := getattr(coroutine, "cr_frame", None)) is not None:
            if coroutine.cr_code is code:
                found.append(frame.f_locals)
                break
            coroutine = coroutine.cr_await
    return found


def suspended_frames(task: asyncio.Task[Any], through: Callable[[FrameType], Any] = lambda _: None) -> list[FrameType]:
    """The frames of a suspended asyncio task, the outermost first: of its coroutine, and of everything that it awaits.

    Follows coroutines, generators, asynchronous generators, and other asyncio tasks: of those that `gather` or `wait`
    waits for, the first that has not ended. `through` gives what a frame awaits by hand, and `None` for every other
    frame.
    """
    frames: list[FrameType] = []
    seen: set[asyncio.Task[Any]] = set()
    waiting: asyncio.Task[Any] | None = task
    while waiting is not None and waiting not in seen:
        seen.add(waiting)
        awaited: Any = waiting.get_coro()
        while awaited is not None:
            frame, awaited = _step(awaited)
            if frame is not None:
                frames.append(frame)
                awaited = through(frame) if awaited is None else awaited
        waiting = _next_task(waiting, frames)
    return frames


def context_of(task: asyncio.Task[Any]) -> Context | None:
    """The context in which an asyncio task runs; `None` if the task does not say so."""
    if sys.version_info >= (3, 12):
        return task.get_context()
    # The context of the task comes before those of its callbacks (`TaskObj_traverse` of `_asyncio`).
    return next((one for one in gc.get_referents(task) if isinstance(one, Context)), getattr(task, "_context", None))


def code_of(task: asyncio.Task[Any]) -> CodeType | None:
    """The code of the coroutine of an asyncio task; `None` if it was not written in Python."""
    coroutine = task.get_coro()
    return getattr(coroutine, "cr_code", None) or getattr(coroutine, "gi_code", None)


def _step(awaited: Any) -> tuple[FrameType | None, Any]:
    """The frame of something that is awaited, and what it awaits in turn."""
    if isinstance(awaited, CoroutineType):
        return awaited.cr_frame, awaited.cr_await
    if isinstance(awaited, GeneratorType):
        return awaited.gi_frame, awaited.gi_yieldfrom
    if isinstance(awaited, AsyncGeneratorType):
        return awaited.ag_frame, awaited.ag_await
    if type(awaited).__name__ in _BETWEEN:
        kinds = (CoroutineType, AsyncGeneratorType)
        return None, next((one for one in gc.get_referents(awaited) if isinstance(one, kinds)), None)
    return None, None


def _next_task(task: asyncio.Task[Any], frames: Sequence[FrameType]) -> asyncio.Task[Any] | None:
    future = getattr(task, "_fut_waiter", None)
    if isinstance(future, asyncio.Task):
        return future
    children = getattr(future, "_children", ())
    if frames and frames[-1].f_globals is vars(asyncio.tasks):
        # `wait`, and before Python 3.12 `wait_for`: they wait for a future that does not know the tasks.
        variables = frames[-1].f_locals
        children = [variables.get("fut"), *variables.get("fs", ())]
    return next((child for child in children if isinstance(child, asyncio.Task) and not child.done()), None)
