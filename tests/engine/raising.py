"""Functions that raise, in every shape that user code may."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

from taskflow_otel import TaskManager, TaskRecord, TaskStatus
from tests.managers import started


class OwnBaseError(BaseException):
    """Not an `Exception`."""


class UnprintableError(Exception):
    """Its text cannot be read."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


class ExitingTextError(Exception):
    """Its text ends the process, if one lets it."""

    def __str__(self) -> NoReturn:
        raise SystemExit(3)

    __repr__ = __str__


class TextlessError(Exception):
    """Its text is no text."""

    def __str__(self) -> Any:
        return 42  # noqa: PLE0307  # that is the point


def recurse() -> None:
    recurse()


def raising(exc: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise exc

    return function


def group() -> None:
    raise ExceptionGroup("several", [ValueError("one"), ExceptionGroup("inner", [TypeError("two")])])


def base_group() -> None:
    raise BaseExceptionGroup("several", [SystemExit(1), KeyboardInterrupt()])


def chained() -> None:
    try:
        raise ValueError("first")
    except ValueError as exc:
        raise RuntimeError("second") from exc


SHAPES: dict[str, tuple[Callable[[], None], str, str]] = {
    "base": (raising(OwnBaseError("b")), "tests.engine.raising.OwnBaseError", "b"),
    "exit": (raising(SystemExit(3)), "SystemExit", "3"),
    "interrupt": (raising(KeyboardInterrupt()), "KeyboardInterrupt", ""),
    "group": (group, "ExceptionGroup", "several (2 sub-exceptions)"),
    "base-group": (base_group, "BaseExceptionGroup", "several (2 sub-exceptions)"),
    "unprintable": (
        raising(UnprintableError()),
        "tests.engine.raising.UnprintableError",
        "<str() of tests.engine.raising.UnprintableError raised ValueError>",
    ),
    "exiting-text": (
        raising(ExitingTextError()),
        "tests.engine.raising.ExitingTextError",
        "<str() of tests.engine.raising.ExitingTextError raised SystemExit>",
    ),
    "textless": (
        raising(TextlessError()),
        "tests.engine.raising.TextlessError",
        "<str() of tests.engine.raising.TextlessError raised TypeError>",
    ),
    "generator-exit": (raising(GeneratorExit("g")), "GeneratorExit", "g"),
    "stop-async": (raising(StopAsyncIteration("s")), "StopAsyncIteration", "s"),
    "cancelled": (raising(asyncio.CancelledError("mine")), "asyncio.exceptions.CancelledError", "mine"),
    "nul": (raising(ValueError("a\x00b")), "ValueError", "a\\x00b"),
    "surrogate": (raising(ValueError("a\udc80b")), "ValueError", "a\\udc80b"),
    "recursion": (recurse, "RecursionError", "maximum recursion depth exceeded"),
    "chained": (chained, "RuntimeError", "second"),
}


async def run_one(manager: TaskManager, body: Callable[[], None], executor: str, **options: Any) -> TaskRecord:
    """Run `body` as a task of this executor, then a harmless one to see that the engine still works."""

    async def job() -> None:
        body()

    async def awaiting() -> None:
        await asyncio.sleep(0)
        body()

    functions: dict[str, Callable[..., Any]] = {"async": job, "awaiting": awaiting, "thread": body}
    failing = manager.task(name="failing", **options)(functions[executor])

    @manager.task(name="harmless", persist=True)
    async def harmless() -> None: ...

    async with started(manager):
        task_id = await manager.enqueue(failing)
        await manager.wait(task_id, timeout=60)
        after = await manager.enqueue(harmless)
        assert (await manager.wait(after, timeout=60)).status is TaskStatus.SUCCESS
        assert manager.queue_stats()["default"].running == 0
        (record,) = [r for r in [await manager.get(task_id)] if not manager.store.list()]
        return record
