"""The engine of one process of a Celery worker: an event loop in a thread, beside those that run Celery's tasks."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from taskflow_otel.celery.extra import exceptions
from taskflow_otel.engine.fleet.doorbells import Doorbells
from taskflow_otel.manager import TaskManager
from taskflow_otel.model.vocabulary import InstanceKind
from taskflow_otel.runtime.retrying import Backoff

logger: logging.Logger = logging.getLogger("taskflow_otel.celery")

_BACKOFF = Backoff(first=0.5, longest=10.0)
_START = 30.0
"""Seconds for which a doorbell waits for the start of the engine. After that, the task is rung again."""

Lifespan = Callable[[], AbstractAsyncContextManager[object]]


class Host:
    """Starts the engine in this process when it is first needed, and stops it with the process.

    Nothing of it exists before a fork: each child of a worker has an engine, an event loop and an identity of its own.
    `lifespan` is entered before the engine starts, and left after it has stopped.
    """

    def __init__(self, manager: TaskManager, doorbells: Doorbells, lifespan: Lifespan | None) -> None:
        self._manager = manager
        self._doorbells = doorbells
        self._lifespan = lifespan
        self._lock = threading.Lock()
        self._life: _Life | None = None

    def start(self) -> None:
        """Start the engine unless it runs in this process; do not wait for it: Celery kills a child that is slow."""
        with self._lock:
            if self._here() is None:
                self._doorbells.serve()
                self._manager.metrics.kind = InstanceKind.CELERY
                self._manager.metrics_page.leave_to_others()
                self._life = _Life(self._manager, self._lifespan)

    def stop(self) -> None:
        """Drain and stop the engine of this process, and wait for that."""
        with self._lock:
            life, self._life = self._here(), None
        if life is not None:
            life.stop()

    def answer(self, task_id: str, queue: str) -> str:
        """Run the task of a doorbell, if it is in the pool; return what Celery shows as its result."""
        if self._here() is None and self._doorbells.life.running:
            # Celery runs its tasks where they are sent (`task_always_eager`): in the thread that rings.
            return _said(asyncio.run(self._doorbells.answer(task_id, queue)))
        self.start()
        life = self._here()
        if life is None or not life.ready.wait(_START) or (loop := life.loop) is None:
            logger.warning("the engine of this process does not run; task %s waits until it is rung again", task_id)
            return "no engine"
        answer = asyncio.run_coroutine_threadsafe(self._doorbells.answer(task_id, queue), loop)
        while True:
            try:
                return _said(answer.result())
            except exceptions.SoftTimeLimitExceeded:
                logger.warning("task %s has reached the soft time limit of Celery, and is cancelled", task_id)
                asyncio.run_coroutine_threadsafe(self._manager.cancel(task_id), loop)

    def _here(self) -> _Life | None:
        life = self._life
        return life if life is not None and life.process == os.getpid() else None


def _said(ran: bool) -> str:
    return "an attempt was run" if ran else "there was nothing to run"


class _Life:
    """One run of the engine."""

    def __init__(self, manager: TaskManager, lifespan: Lifespan | None) -> None:
        self._manager = manager
        self._lifespan = lifespan
        self.process: int = os.getpid()
        self.ready: threading.Event = threading.Event()
        """The engine runs."""
        self.loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._stopped_early = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="taskflow-engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        with self._lock:
            self._stopped_early = True
            if self.loop is not None and self._stopping is not None:
                self.loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception:
            logger.exception("the engine of this process has ended with an error; its tasks are taken over")
        finally:
            self.loop = None

    async def _serve(self) -> None:
        stopping = asyncio.Event()
        with self._lock:
            if self._stopped_early:
                return
            self._stopping, self.loop = stopping, asyncio.get_running_loop()
        failures = 0
        while not stopping.is_set():
            try:
                await self._serve_once(stopping)
            except Exception as exc:
                failures += 1
                wait = _BACKOFF.after(failures)
                logger.error("the engine of this process does not run (%s); the next try is in %g s", exc, wait)
                await asyncio.wait({asyncio.ensure_future(stopping.wait())}, timeout=wait)

    async def _serve_once(self, stopping: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            if self._lifespan is not None:
                await stack.enter_async_context(self._lifespan())
            await self._manager.startup()
            # Whatever happens now, the engine is drained before the lifespan ends.
            stack.push_async_callback(self._manager.shutdown)
            self.ready.set()
            try:
                await stopping.wait()
            finally:
                self.ready.clear()
