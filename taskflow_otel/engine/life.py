"""Whether an engine runs, and the event loop that it runs on."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from taskflow_otel.errors import NotStartedError, TaskStateError
from taskflow_otel.model.vocabulary import EngineState

P = ParamSpec("P")
T = TypeVar("T")

# Module-level names: the lookup of an enum member would be a call for each task.
_RUNNING = EngineState.RUNNING
_ACTIVE = frozenset({EngineState.RUNNING, EngineState.DRAINING})


class Life:
    """The state of an engine: its parts check it before they take a task, and reach the engine's thread through it."""

    def __init__(self) -> None:
        self.state: EngineState = EngineState.NEW
        self.home: asyncio.AbstractEventLoop | None = None
        """The event loop of the engine, from `begin` to `end`."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._process = 0

    def begin(self) -> None:
        """Bind to the running event loop; raises `TaskStateError` if the engine already runs."""
        if self.state in _ACTIVE:
            raise TaskStateError(f"the engine is {self.state} already")
        self._loop = self.home = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._process = os.getpid()

    def end(self, state: EngineState) -> None:
        """Leave the event loop; pending calls from threads are still made there."""
        self.state, self.home = state, None

    @property
    def running(self) -> bool:
        """Whether the engine takes tasks."""
        return self.state is _RUNNING

    @property
    def lost_its_loop(self) -> bool:
        """Whether the event loop was closed without a stop, or belongs to the parent of this process."""
        lost = self._loop is not None and (self._loop.is_closed() or self.inherited)
        return self.state in _ACTIVE and lost

    @property
    def inherited(self) -> bool:
        """Whether the engine was started by the parent of this process, before a fork."""
        return self._process not in (0, os.getpid())

    @property
    def here(self) -> bool:
        """Whether the caller is on the thread of the engine's event loop."""
        return threading.get_ident() == self._thread

    def is_home(self) -> bool:
        """Whether the running event loop is that of the engine, or the engine has none."""
        return self.home is None or self.home is asyncio.get_running_loop()

    def require_running(self) -> None:
        """Raise `NotStartedError` unless the engine takes tasks."""
        if self.state is not _RUNNING:
            raise NotStartedError("not started" if self.state is EngineState.NEW else self.state.value)

    def call_on_loop(self, callback: Callable[..., None], *args: Any) -> None:
        """Call on the engine's event loop: at once on its thread, else as soon as possible."""
        if self.here:
            callback(*args)
        elif self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *args, context=Context())

    async def run_at_home(self, work: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine on the engine's event loop, in the caller's context, from any other one.

        Raises `NotStartedError` at once if that loop is closed or does not run, because no one would ever answer.
        """
        home = self.home
        if home is None or home is asyncio.get_running_loop():
            return await work
        if home.is_closed() or not home.is_running():
            work.close()
            now = "closed" if home.is_closed() else "not running"
            raise NotStartedError(f"started on another event loop, which is {now}")
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, home))


class Lives(Protocol):
    """A part of an engine."""

    @property
    def life(self) -> Life:
        """The life of the engine."""


S = TypeVar("S", bound=Lives)


def at_home(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Run a method on the event loop of its engine, even if it is awaited on another loop."""

    @functools.wraps(method)
    def anywhere(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        work, home = method(self, *args, **kwargs), self.life.home
        try:
            return work if home is None or home is asyncio.get_running_loop() else self.life.run_at_home(work)
        except RuntimeError:  # no loop runs yet; the caller may await the coroutine on one later
            return self.life.run_at_home(work)

    return anywhere
