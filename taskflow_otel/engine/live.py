"""The tasks of this process as the engine sees them: the live ones, and a bounded window of finished ones."""

from __future__ import annotations

import asyncio
import builtins
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import Context
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from msgspec import Struct

from taskflow_otel.backends.base import RetryLink
from taskflow_otel.engine.context import TaskContext
from taskflow_otel.engine.executors.base import Call
from taskflow_otel.engine.membership import StopCause
from taskflow_otel.engine.phase import BEFORE_COMMIT_PHASES, NEXT, UNKNOWN_PHASES, Phase, Step, next_phase
from taskflow_otel.engine.registry import TaskDefinition
from taskflow_otel.model.hiding import repr_without
from taskflow_otel.model.ids import id_text
from taskflow_otel.model.payload import Codec
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.runtime.timers import Timer

REFUSED = -1
"""In place of the number of published lines: the refusal of the task is published, and its row may exist."""


class Sealed(NamedTuple):
    """Encrypted arguments that are not stored, and the codec that reads them."""

    codec: Codec
    payload: str

    def __repr__(self) -> str:
        return repr_without(self, "payload")


class LiveTask(Struct, eq=False, weakref=True):
    """One task in this process, with all that is not stored: function, arguments, context, timers, waiters."""

    record: TaskRecord
    definition: TaskDefinition
    args: tuple[Any, ...] | None
    """`None`: the arguments exist only in the record's payload, and are decoded for each attempt."""
    kwargs: dict[str, Any] | None
    context: Context | None
    """The context variables of the code that enqueued the task; `None` after a restart."""
    durable: bool
    """Each transition is committed before it is published and takes effect."""
    sealed: Sealed | None = None
    """The arguments of an undecorated function while encryption is on; `args` is `None` then."""
    repeats: str | None = None
    """The finished task of this process that held its key, and whose id the caller got. Any instance may have deleted
    it since: the ledger is asked before the commit."""
    link: RetryLink | None = None
    """The link to the task that it retries, written with its insert."""
    once: str | None = None
    """A name that only one task may ever use, written with its insert."""
    insert_tried: bool = False
    """An insert of its history failed, and may have been applied nevertheless."""
    stored: bool = False
    """The ledger has a row for this task."""
    claimed: bool = False
    """This instance has claimed it from the pool, so it runs here."""
    pooled_since: datetime | None = None
    """It was claimed only to be looked at, and goes back into the pool, where it has been since then."""
    error: BaseException | None = None
    """The exception of an undecorated function: inside a request, the response raises it."""
    phase: Phase = Phase.BUILT
    """Written only by `advance`."""
    ready_at: float = 0.0
    """Monotonic time at which it became ready to run, or will after a delay; 0 until that is known."""
    timer: Timer | None = None
    objective_timer: Timer | None = None
    """Waits for the time limit of its objective; `None` without one, and after its end."""
    arrival: asyncio.Task[None] | None = None
    """The asyncio task that commits it and lets it start, if it does not wait for its request."""
    attempt: asyncio.Task[None] | None = None
    call: Call | None = None
    task_context: TaskContext | None = None
    cancel_reason: StopCause | None = None
    waiting_in_queue: bool = False
    """It counts as waiting in its queue, from `take_place` to `leave_place`: in several phases, so no phase says it."""
    spans: str | None = None
    """What exporters kept of the attempt whose function is over, in its stored form; written with its outcome."""
    log_count: int = 0
    log_size: int = 0
    waiters: list[asyncio.Future[TaskRecord]] | None = None
    """They get its record, in the state in which it left this process or finished."""

    def __repr__(self) -> str:
        return repr_without(self, "args", "kwargs")

    @property
    def id(self) -> str:
        """The task's id."""
        return self.record.task_id

    def advance(self, step: Step) -> None:
        """Take one step of the table of phases; raises `IllegalTransitionError` outside it."""
        # `next_phase` without the call: a task takes six steps.
        following = NEXT[step][self.phase]
        self.phase = next_phase(self.phase, step) if following is None else following

    @property
    def known(self) -> bool:
        """`ENQUEUED` is published; of a durable task the insert is committed."""
        return self.phase not in UNKNOWN_PHASES


class LiveTasks:
    """Tasks of this process by id, with a bounded number of finished ones, and the idempotency keys they hold."""

    def __init__(self, finished_window: int) -> None:
        self._live: dict[str, LiveTask] = {}
        self._finished: OrderedDict[str, TaskRecord] = OrderedDict()
        self._window = finished_window
        self._unpublished: dict[str, int] = {}
        self._awaited: dict[str, list[Callable[[], None]]] = {}
        self._keys: dict[str, str] = {}
        # `add_task` runs in request threads too.
        self._key_lock = threading.Lock()

    def add(self, task: LiveTask) -> None:
        """Add a live task."""
        self._live[task.record.task_id] = task
        if self._awaited:
            for come in self._awaited.pop(task.record.task_id, ()):
                come()

    @contextmanager
    def awaiting(self, task_id: str, come: Callable[[], None]) -> Iterator[None]:
        """Inside the `with` block, `come` is called when a task of this id is added."""
        self._awaited.setdefault(task_id, []).append(come)
        try:
            yield
        finally:
            waiting = self._awaited.get(task_id)
            if waiting is not None:
                waiting.remove(come)
                if not waiting:
                    del self._awaited[task_id]

    def holder_of(self, key: str) -> str | None:
        """The task of this process that holds `key`, as far as this process knows."""
        with self._key_lock:
            return self._keys.get(key)

    def hold_key(self, key: str, task_id: str) -> None:
        """Remember that the ledger has given `key` to this task."""
        with self._key_lock:
            self._keys[key] = task_id

    def release_key(self, key: str, task_id: str) -> None:
        """Release a key if this task holds it."""
        with self._key_lock:
            if self._keys.get(key) == task_id:
                del self._keys[key]

    def finish(self, task: LiveTask) -> None:
        """Move a finished task into the window, which may drop the oldest one."""
        record = task.record
        self._live.pop(record.task_id, None)
        if record.idempotency_key is not None and record.status is not TaskStatus.SUCCESS:
            self.release_key(record.idempotency_key, record.task_id)
        self._finished[record.task_id] = record
        if len(self._finished) > self._window:
            _, oldest = self._finished.popitem(last=False)
            if oldest.idempotency_key is not None:
                self.release_key(oldest.idempotency_key, oldest.task_id)

    def forget_finished(self, before: datetime) -> None:
        """Forget the finished tasks that ended before a moment, and their keys: they are deleted from the history."""
        for task_id, record in list(self._finished.items()):
            if record.end_time is not None and record.end_time < before:
                self._forget(task_id)

    def forget_deleted(self, task_ids: Iterable[str]) -> None:
        """Forget those of these tasks that have finished, and their keys: they are deleted from the history."""
        for task_id in task_ids:
            if task_id in self._finished:
                self._forget(task_id)

    def _forget(self, task_id: str) -> None:
        record = self._finished.pop(task_id)
        if record.idempotency_key is not None:
            self.release_key(record.idempotency_key, task_id)

    def drop(self, task: LiveTask) -> None:
        """Forget a task that another instance has, or that was deleted; this one may have it back under another id."""
        record = task.record
        if self._live.get(record.task_id) not in (task, None):
            return
        self._live.pop(record.task_id, None)
        if record.idempotency_key is not None:
            self.release_key(record.idempotency_key, record.task_id)

    def live(self, task_id: str) -> LiveTask | None:
        """The live task of this id."""
        return self._live.get(task_id)

    def has(self, record: TaskRecord) -> bool:
        """Whether this task is here already under the same owner and token: two ways led it to this instance."""
        here = self._live.get(record.task_id)
        return here is not None and (here.record.instance, here.record.token) == (record.instance, record.token)

    def record(self, task_id: str) -> TaskRecord | None:
        """The record of a live or recently finished task of this process."""
        task = self._live.get(task_id)
        return task.record if task is not None else self._finished.get(task_id)

    @contextmanager
    def unpublished_while(self, task_id: str, published: int = 0) -> Iterator[None]:
        """Count a task as unpublished inside the `with` block, with `published` lines; it need not be live."""
        self._unpublished[task_id] = published
        try:
            yield
        finally:
            self._unpublished.pop(task_id, None)

    def unpublished(self) -> dict[str, int]:
        """The number of published timeline lines, for each durable task that may have a further line now.

        For every other task, all earlier lines have been published.
        """
        moving = {
            task_id: len(task.record.timeline) if task.known else 0
            for task_id, task in list(self._live.items())
            if task.durable and task.phase in BEFORE_COMMIT_PHASES
        }
        return moving | self._unpublished

    def recent(self) -> list[TaskRecord]:
        """The records of the finished tasks in the window, and of the live ones."""
        return [*self._finished.values(), *(task.record for task in list(self._live.values()))]

    def __iter__(self) -> Iterator[LiveTask]:
        return iter(list(self._live.values()))

    def __len__(self) -> int:
        return len(self._live)


class TaskStore:
    """Read access to the live tasks of this process (`task_manager.store`)."""

    def __init__(self, tasks: LiveTasks) -> None:
        self._tasks = tasks

    def get(self, task_id: str | UUID) -> TaskRecord | None:
        """A snapshot of a live or recently finished task of this process, or `None`."""
        record = self._tasks.record(id_text(task_id))
        return None if record is None else record.copy()

    def list(self) -> list[TaskRecord]:
        """Snapshots of the live tasks of this process, oldest first."""
        return [task.record.copy() for task in self._tasks]

    def recent(self) -> builtins.list[TaskRecord]:
        """Snapshots of the live and the recently finished tasks of this process, in the order of their creation."""
        return sorted((record.copy() for record in self._tasks.recent()), key=lambda one: (one.created_at, one.task_id))
