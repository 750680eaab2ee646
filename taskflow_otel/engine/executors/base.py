"""How the function of one attempt is run: the contract of every executor."""

from __future__ import annotations

from asyncio import Task
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from msgspec import Struct

from taskflow_otel.engine.context import TaskContext
from taskflow_otel.engine.registry import TaskDefinition
from taskflow_otel.model.hiding import repr_without
from taskflow_otel.model.stack import Place


class Call(Struct, eq=False):
    """One attempt, ready to run."""

    definition: TaskDefinition
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    task_context: TaskContext
    payload: str | None
    on_loop: bool = False
    """The function returned an awaitable. It is awaited on the event loop, where it can be cancelled."""
    thread: int | None = None
    """The identity of the thread that is in the function, if it runs in one."""
    abandoned: bool = False
    """No one waits for the function any more; set before the awaiting task is cancelled for the last time."""

    def __repr__(self) -> str:
        return repr_without(self, "args", "kwargs", "payload")


class Executor(Protocol):
    """Runs the functions of attempts.

    `run` returns the function's result and raises its exception. It is called and awaited in the attempt's own context,
    in which the task context and the attempt's span are current. Cancelling the awaiting task must end the function if
    that is possible (async, process). If not (`cancellable` is false: threads), the engine asks through the task
    context and waits.
    """

    name: str
    """One of `ExecutorKind`."""
    cancellable: bool
    capacity: int | None
    """Attempts that can run at once; `None` is no limit."""

    async def start(self) -> None:
        """Prepare what attempts need."""

    def run(self, call: Call) -> Awaitable[Any]:
        """Run one attempt."""

    def look(self, call: Call, attempt: Task[None], tell: Callable[[Sequence[Place]], None]) -> None:
        """Tell where the function of a running attempt is, the outermost place first: at once, or a moment later.

        Nothing is told if that cannot be known, and an empty stack if the function has just ended.
        """

    async def close(self, timeout: float) -> None:
        """Release threads and processes, waiting for at most `timeout` seconds."""


@runtime_checkable
class PreparingExecutor(Executor, Protocol):
    """An executor that needs time before it can enter a function; this time is not part of the attempt."""

    async def prepare(self, task_id: str, definition: TaskDefinition) -> None:
        """Prepare what the attempt needs, before it counts as started. `run` raises a failure."""

    def dismiss(self, task_id: str) -> None:
        """Release what was prepared, if the attempt did not run."""
