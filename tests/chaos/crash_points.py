"""Named moments at which a process kills itself: around the backend, around the response, inside a task.

The library knows nothing of them. The driver arms a point by writing its name to a file, and the process that
reaches the armed point dies of SIGKILL there, as in a power cut at that moment.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Collection, Sequence
from pathlib import Path

from sqlalchemy import Connection, Engine, event
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taskflow_otel.backends.base import Applied, Backend, Change, Insert, Update
from taskflow_otel.backends.pool import Claimed, KeepsPool, Pooled, PoolStore, Wanted
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import Transition

BEFORE_COMMIT = "before commit"
IN_COMMIT = "in commit"
AFTER_COMMIT = "after commit"
BEFORE_RESPONSE = "after commit, before response"
AFTER_RESPONSE = "after response, before hand-over"
BEFORE_CLAIM = "before claim"
AFTER_CLAIM = "after claim"
MID_RUN = "mid-run"
BEFORE_OUTCOME = "after the function, before the outcome"
AFTER_OUTCOME = "after the outcome"
RETRY_WAIT = "in retry wait"
AFTER_TAKEOVER = "after takeover"
DRAIN = "in drain"
BEFORE_GIFT = "before a gift to the pool"
AFTER_GIFT = "after a gift to the pool"
BEFORE_POOL_CLAIM = "before a claim from the pool"
AFTER_POOL_CLAIM = "after a claim from the pool"
BEFORE_RING = "before a message"
AFTER_RING = "after a message"
IN_TRANSACTION = "inside a transaction"
STOPPED_IN_TRANSACTION = "stopped inside a transaction"
"""Not a death: the process holds its locks and says nothing, as in a frozen container."""
STOPPED_WITH_KEY = "stopped inside a transaction that inserts a key"
"""As above, where others that insert the same key have to wait (PostgreSQL)."""

POINTS = (
    BEFORE_COMMIT, IN_COMMIT, AFTER_COMMIT, BEFORE_RESPONSE, AFTER_RESPONSE, BEFORE_CLAIM, AFTER_CLAIM, MID_RUN,
    BEFORE_OUTCOME, AFTER_OUTCOME, RETRY_WAIT, AFTER_TAKEOVER, DRAIN,
)  # fmt: skip
WEB_POINTS = (
    BEFORE_COMMIT, IN_COMMIT, AFTER_COMMIT, BEFORE_RESPONSE, AFTER_RESPONSE, BEFORE_GIFT, AFTER_GIFT, DRAIN,
)  # fmt: skip
"""Those that a process reaches which only enqueues."""
WORKER_POINTS = (
    BEFORE_POOL_CLAIM, AFTER_POOL_CLAIM, BEFORE_CLAIM, AFTER_CLAIM, MID_RUN, BEFORE_OUTCOME, AFTER_OUTCOME, RETRY_WAIT,
    AFTER_TAKEOVER, DRAIN,
)  # fmt: skip
"""Those that a worker reaches."""
RING_POINTS = (BEFORE_RING, AFTER_RING)
"""Those that a process reaches besides, if its tasks run on Celery."""
CHILD_POINTS = (
    BEFORE_POOL_CLAIM, AFTER_POOL_CLAIM, BEFORE_CLAIM, AFTER_CLAIM, MID_RUN, BEFORE_OUTCOME, AFTER_OUTCOME, RETRY_WAIT,
    AFTER_TAKEOVER, BEFORE_GIFT, AFTER_GIFT, *RING_POINTS,
)  # fmt: skip
"""Those that a child of a Celery worker reaches."""

_INSERTED_KEYS = """
    SELECT count(*) FROM taskflow_tasks
    WHERE active_key IS NOT NULL AND status = 'pending' AND xmin = pg_current_xact_id()::xid
"""
"""How many idempotency keys the present transaction of PostgreSQL holds that nobody else can see yet."""

_LONGEST_DELAY = {IN_COMMIT: 0.01, RETRY_WAIT: 0.2, DRAIN: 1.0}
"""Points that are a stretch of time: seconds of it."""


class CrashPoints:
    """The points of one process, armed by the content of the file `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def armed(self) -> str | None:
        """The point that is armed now."""
        try:
            return self._path.read_text()
        except FileNotFoundError:
            return None

    def reach(self, point: str) -> None:
        """Die here, or at a random moment of the stretch that begins here, if `point` is armed."""
        if self.armed != point:
            return
        if point in _LONGEST_DELAY:
            # A thread, so that a busy event loop does not put it off.
            timer = threading.Timer(random.uniform(0, _LONGEST_DELAY[point]), die)
            timer.daemon = True
            timer.start()
        else:
            die()


def add_transaction_points(points: CrashPoints) -> None:
    """Give every SQL transaction of this process a point between its last statement and its commit."""

    def before_commit(connection: Connection) -> None:
        points.reach(IN_TRANSACTION)
        armed = points.armed
        if armed == STOPPED_IN_TRANSACTION or (
            armed == STOPPED_WITH_KEY and connection.exec_driver_sql(_INSERTED_KEYS).scalar_one()
        ):
            os.kill(os.getpid(), signal.SIGSTOP)

    event.listen(Engine, "commit", before_commit)


def die() -> None:
    """End this process by SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(path: Path, point: str) -> None:
    """Make the process that reads `path` die at `point`."""
    whole = path.with_suffix(".new")
    whole.write_text(point)
    # A reader never sees half a name.
    whole.rename(path)


def disarm(path: Path) -> None:
    """Let the process live."""
    path.unlink(missing_ok=True)


def add_crash_points(backend: Backend, points: CrashPoints) -> Backend:
    """Surround what this backend writes by crash points, and return it."""
    inner_apply, inner_take_over = backend.apply, backend.take_over

    async def apply(changes: Sequence[Change]) -> list[Applied]:
        kinds = {_kind(change) for change in changes}
        for kind, point in (("insert", BEFORE_COMMIT), ("insert", IN_COMMIT), ("claim", BEFORE_CLAIM),
                            ("outcome", BEFORE_OUTCOME)):  # fmt: skip
            if kind in kinds:
                points.reach(point)
        results = await inner_apply(changes)
        for kind, point in (("insert", AFTER_COMMIT), ("claim", AFTER_CLAIM), ("outcome", AFTER_OUTCOME),
                            ("retry", RETRY_WAIT)):  # fmt: skip
            if kind in kinds:
                points.reach(point)
        return results

    async def take_over(*args: object, **kwargs: object) -> list[TaskRecord]:
        taken = await inner_take_over(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they came
        if taken:
            points.reach(AFTER_TAKEOVER)
        return taken

    backend.apply, backend.take_over = apply, take_over  # type: ignore[method-assign]  # the instance's own
    if isinstance(backend, KeepsPool):
        _add_pool_points(backend.pool_store, points)
    return backend


def _add_pool_points(store: PoolStore, points: CrashPoints) -> None:
    inner_give, inner_claim = store.give, store.claim

    async def give(owner: str, tasks: Sequence[Pooled]) -> None:
        points.reach(BEFORE_GIFT)
        await inner_give(owner, tasks)
        points.reach(AFTER_GIFT)

    async def claim(owner: str, wanted: Wanted, seals: Collection[str]) -> list[Claimed]:
        points.reach(BEFORE_POOL_CLAIM)
        claimed = await inner_claim(owner, wanted, seals)
        if claimed:
            points.reach(AFTER_POOL_CLAIM)
        return claimed

    store.give, store.claim = give, claim  # type: ignore[method-assign]  # the instance's own


def _kind(change: Change) -> str:
    match change:
        case Insert(record) if record.persisted:
            return "insert"
        case Update(record) if record.timeline:
            match record.timeline[-1].transition:
                case Transition.STARTED:
                    return "claim"
                case Transition.RETRY_SCHEDULED:
                    return "retry"
                case Transition.SUCCEEDED | Transition.FAILED:
                    return "outcome"
    return "other"


class ResponseCrashPoints:
    """Middleware with the points around a response."""

    def __init__(self, app: ASGIApp, points: CrashPoints) -> None:
        self._app = app
        self._points = points

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._points.reach(BEFORE_RESPONSE)
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await self._app(scope, receive, watched)
        self._points.reach(AFTER_RESPONSE)
