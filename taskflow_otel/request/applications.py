"""The applications of a manager: their middlewares, their lifespans, and which of them have native injection."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI

from taskflow_otel.compat.starlette import Lifespan, has_started, wrap_lifespan
from taskflow_otel.engine.door import Door
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.request.injection import hook_fastapi
from taskflow_otel.request.middleware import add_task_middleware, another_is_installed


class Applications:
    """Connects applications to one manager. The manager runs while at least one of them is in `running()`."""

    def __init__(self, door: Door, running: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        self._door = door
        self._running = running
        self._mounted: list[FastAPI] = []
        self._installed: list[FastAPI] = []

    def mount(self, app: FastAPI) -> None:
        """Connect an application to the manager; harmless to repeat.

        Raises `ConfigurationError` if it has started, or is not an application of FastAPI.
        """
        refuse_other_apps(app)
        if app in self._mounted:
            return
        if has_started(app):
            raise ConfigurationError("the application has already started: mount the TaskManager before that")
        hook_fastapi()
        self._mounted.append(app)
        add_task_middleware(app, self._door, lambda: app in self._installed)
        wrap_lifespan(app, self._around)

    def install(self, app: FastAPI) -> None:
        """Connect an application, and also inject managed tasks for the native annotation.

        Raises `ConfigurationError` if its routes already get those of another manager, or if it has started.
        """
        if another_is_installed(app, self._door):
            raise ConfigurationError(
                "another TaskManager is installed on this application, and BackgroundTasks belong to one manager. "
                "Mount this one with init_app(app), and add its tasks through Depends(task_manager.get_tasks)."
            )
        self.mount(app)
        if app not in self._installed:
            self._installed.append(app)

    def _around(self, inner: Lifespan) -> Lifespan:
        @contextlib.asynccontextmanager
        async def lifespan(app: Any) -> AsyncIterator[Any]:
            # The application's lifespan is inside, so that its start-up and its shutdown can enqueue tasks.
            async with self._running(), inner(app) as state:
                yield state

        return lifespan


def refuse_other_apps(app: object) -> None:
    """Raise `ConfigurationError` for what is not an application of FastAPI."""
    if not isinstance(app, FastAPI):
        raise ConfigurationError(
            f"a TaskManager needs a FastAPI application, not {type(app).__module__}.{type(app).__qualname__}. Around "
            "another ASGI application, make one and mount it there: outer.mount('/', app)"
        )
