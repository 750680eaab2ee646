"""Whether this instance takes tasks and reaches its backend, and why not."""

from __future__ import annotations

import asyncio

from taskflow_otel.errors import BackendError, NotStartedError
from taskflow_otel.model.vocabulary import EngineState
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.web.ports import TaskEngine

_BACKEND_PATIENCE = 2.0
_FRESH = 1.0


class Readiness:
    """Asks the engine and its backend. What anyone may ask (`is_ready`) reaches the backend once a second at most."""

    def __init__(self, engine: TaskEngine, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._engine = engine
        self._clock = clock
        self._lock = asyncio.Lock()
        self._known: tuple[float, bool] | None = None

    async def reasons(self) -> list[str]:
        """Why the instance is not ready; empty when it is."""
        engine = self._engine
        if engine.state is not EngineState.RUNNING:
            return [f"the task manager is {engine.state}, not running"]
        try:
            async with asyncio.timeout(_BACKEND_PATIENCE):
                await engine.lookup.instances()
        except TimeoutError:
            return [f"the backend did not answer within {_BACKEND_PATIENCE:g} s"]
        except BackendError as exc:
            return [f"the backend does not work: {exc}"]
        if engine.vitals.backend_failing:
            return ["the backend can be read but not written (a full disk, a lock?); persisted tasks are refused"]
        return []

    async def is_ready(self) -> bool:
        """Whether the instance is ready, as it was at most a second ago."""
        if self._engine.state is not EngineState.RUNNING:
            return False
        async with self._lock:
            if self._known is None or self._clock.monotonic() - self._known[0] > _FRESH:
                ready = not await self.reasons()
                self._known = self._clock.monotonic(), ready
            return self._known[1]

    async def require_started(self) -> None:
        """Raise `NotStartedError` before the lifespan has run: answers would look empty, but nothing was read."""
        if self._engine.state is EngineState.NEW:
            raise NotStartedError
