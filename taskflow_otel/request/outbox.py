"""The tasks of one request: collected while it runs, committed before its response, released after it."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import Scope

from taskflow_otel.engine.engine import Engine
from taskflow_otel.engine.live import LiveTask
from taskflow_otel.errors import BackendError
from taskflow_otel.model.enqueue import EnqueueOptions

REQUEST_FAILED = "request_failed"
NOT_KEPT = (
    "The request was understood, but its background tasks could not be stored, so nothing of it was started. "
    "Try again in a moment."
)
RETRY_AFTER = "1"
_SCOPE_KEY = "taskflow_otel.outboxes"


class Outbox:
    """Collects the tasks of one request.

    `immediate`: there is no response to wait for (a WebSocket), so each task starts once it is committed.
    """

    __slots__ = ("_eager", "_immediate", "_new", "_waiting", "engine")

    def __init__(self, engine: Engine, *, immediate: bool = False) -> None:
        self.engine = engine
        self._immediate = immediate
        self._eager: list[LiveTask] = []
        self._new: list[LiveTask] = []
        self._waiting: list[LiveTask] = []

    @property
    def uncommitted(self) -> bool:
        """Whether tasks were added since the last commit."""
        return bool(self._new or self._eager)

    def add(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: EnqueueOptions
    ) -> str:
        """Add a task and return its id; callable from the thread of a sync route."""
        task_id, task = self.engine.create(func, args, kwargs, options)
        if task is None:
            return task_id
        eager = task.definition.config.eager if options.eager is None else options.eager
        if eager or self._immediate:
            self.engine.start_soon(task)
            if task.durable:
                # It starts now, but the response still waits for its commit.
                self._eager.append(task)
        else:
            self._new.append(task)
        return task_id

    async def commit(self) -> None:
        """Make the tasks added so far known, persisted ones durably; raises `BackendError`, and then none will run."""
        tasks, self._new = self._new, []
        eager, self._eager = self._eager, []
        # Also if this is cancelled: what is committed by then is to be released or discarded, like all the others.
        self._waiting += tasks
        await self.engine.commit(tasks)
        await self.engine.arrived(eager)

    def release(self) -> None:
        """The response has been sent: let the tasks start."""
        tasks, self._waiting = self._waiting, []
        if tasks:
            self.engine.release(tasks)

    def discard(self) -> None:
        """The request has failed: its tasks never run."""
        self._new, self._waiting = self._new + self._waiting, []
        self.discard_uncommitted()

    def discard_uncommitted(self) -> None:
        """The request ended before these tasks could be committed: they never run."""
        tasks, self._new = self._new, []
        if tasks:
            self.engine.discard(tasks, REQUEST_FAILED)

    async def before_response(
        self, _type: type[BaseException] | None, exc: BaseException | None, _traceback: TracebackType | None
    ) -> bool:
        """Commit when the route has returned; as an exit callback of FastAPI's function stack."""
        if exc is not None:
            self.discard()
            return False
        try:
            await self.commit()
        except BackendError as error:
            raise HTTPException(503, NOT_KEPT, {"Retry-After": RETRY_AFTER}) from error
        return False

    async def after_response(
        self, _type: type[BaseException] | None, exc: BaseException | None, _traceback: TracebackType | None
    ) -> bool:
        """Release when the response was sent; as an exit callback of FastAPI's request stack."""
        if exc is not None and not isinstance(exc, OSError):
            self.discard()
            return False
        if self._new:
            await self.commit()
        self.release()
        return False


def put_outbox(scope: Scope, outbox: Outbox) -> None:
    """Attach the outbox of a manager's engine to a request."""
    scope.setdefault(_SCOPE_KEY, {})[id(outbox.engine)] = outbox


def outbox_of(scope: Scope, engine: Engine) -> Outbox | None:
    """The outbox that the middleware attached to a request for this engine."""
    found: Outbox | None = scope.get(_SCOPE_KEY, {}).get(id(engine))
    return found
