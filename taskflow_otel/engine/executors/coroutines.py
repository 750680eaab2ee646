"""The executor of coroutine functions: they run on the manager's event loop."""

from __future__ import annotations

import types
from typing import Any

from taskflow_otel.engine.executors.awaiting import awaited, leashed
from taskflow_otel.engine.executors.base import Call
from taskflow_otel.model.vocabulary import ExecutorKind


class AsyncExecutor:
    """Coroutine functions, on the manager's event loop."""

    name = ExecutorKind.ASYNC.value
    cancellable = True

    def __init__(self, capacity: int | None) -> None:
        self.capacity = capacity

    async def start(self) -> None:
        """Nothing to prepare."""

    async def run(self, call: Call) -> Any:
        """Await the function in the attempt's context, which is that of the awaiting task."""
        result = call.definition.func(*call.args, **call.kwargs)
        if type(result) is types.CoroutineType:
            # The result of an async function. The check for other awaitables costs more than the await.
            result = await leashed(result, call)
        return result if result is None else await awaited(result, call)

    async def close(self, timeout: float) -> None:
        """Nothing to release."""
