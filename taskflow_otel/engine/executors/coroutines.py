"""The executor of coroutine functions: they run on the manager's event loop."""

from __future__ import annotations

from asyncio import Task
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from taskflow_otel.engine.executors.awaiting import awaited, places_in
from taskflow_otel.engine.executors.base import Call
from taskflow_otel.model.stack import Place
from taskflow_otel.model.vocabulary import ExecutorKind


class AsyncExecutor:
    """Coroutine functions, on the manager's event loop."""

    name: str = ExecutorKind.ASYNC.value
    cancellable = True

    def __init__(self, capacity: int | None) -> None:
        self.capacity = capacity

    async def start(self) -> None:
        """Nothing to prepare."""

    def run(self, call: Call) -> Awaitable[Any]:
        """Await the function in the attempt's context, which is that of the awaiting task."""
        return awaited(call.definition.func(*call.args, **call.kwargs), call)

    def look(self, call: Call, attempt: Task[None], tell: Callable[[Sequence[Place]], None]) -> None:
        """Walk through what the function awaits."""
        tell(places_in(attempt))

    async def close(self, timeout: float) -> None:
        """Nothing to release."""
