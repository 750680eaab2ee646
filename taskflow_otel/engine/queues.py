"""Named queues: their waiting tasks, the order, and the limits."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from taskflow_otel.engine.live import LiveTask
from taskflow_otel.engine.phase import Phase, Step
from taskflow_otel.errors import QueueFullError, UnknownQueueError
from taskflow_otel.model.options import ON_CELERY, QueueConfig
from taskflow_otel.model.record import DEFAULT_QUEUE, TaskRecord

_FEW = 64
"""Entries of removed tasks that may always stay in a heap."""


@dataclass(frozen=True, slots=True)
class QueueStats:
    """A queue of this process at one moment."""

    name: str
    concurrency: int | None
    max_size: int | None
    running: int
    ready: int
    delayed: int
    paused: bool
    shared: bool
    """Its persisted tasks wait in the pool, and not here."""
    claimed: bool
    """If it is shared: this process claims its tasks."""
    oldest_ready_age: float
    """Seconds that the longest-waiting ready task has waited; 0 for an empty queue."""


class Queue:
    """One queue: a heap per executor, ordered by priority (higher first), then by arrival."""

    def __init__(self, name: str, config: QueueConfig) -> None:
        self.name = name
        self.concurrency: int | None = config.concurrency
        self.max_size: int | None = config.max_size
        self.of_all: bool = config.concurrency_scope == "fleet"
        """`concurrency` is for the persisted tasks of all instances together."""
        self.paused = False
        self.shared = False
        """Persisted tasks that are ready go into the pool, and run on the instance that claims them."""
        self.claimed = True
        """This process claims tasks of the queue, if it is shared."""
        self.by_doorbell: bool = config.run == ON_CELERY
        """A task is claimed when a message asks for it, and not by looks at the pool."""
        self.celery_queue: str | None = config.celery_queue
        self.running = 0
        self.delayed = 0
        self.ready: int = 0
        # An entry for each waiting task. `add_task` takes places in request threads too: to append and to pop is
        # atomic, and costs a twentieth of a lock. Only a limit needs the lock, to look and to take in one step.
        self._places: list[None] = []
        self._limit_lock = threading.Lock()
        self._heaps: dict[str, list[tuple[int, int, LiveTask]]] = {}
        # In order of arrival, with the time of each; tasks that left are dropped when they are first.
        self._arrivals: deque[tuple[float, LiveTask]] = deque()
        self._order = itertools.count()

    @property
    def has_room(self) -> bool:
        """Whether one more task of this queue may start now."""
        return not self.paused and (self.concurrency is None or self.running < self.concurrency)

    @property
    def executors(self) -> Collection[str]:
        """The executors for which tasks of this queue have waited."""
        return self._heaps.keys()

    def take_place(self, task: LiveTask, *, enforce: bool) -> None:
        """Count a task as waiting; with `enforce`, raises `QueueFullError` if the queue is at its `max_size`."""
        if enforce and self.max_size is not None:
            with self._limit_lock:
                if (limit := self.max_size) is not None and len(self._places) >= limit:
                    raise QueueFullError(self.name, limit)
                self._places.append(None)
        else:
            self._places.append(None)
        task.waiting_in_queue = True

    def leave_place(self, task: LiveTask) -> None:
        """Count a task as no longer waiting."""
        if task.waiting_in_queue:
            task.waiting_in_queue = False
            self._places.pop()

    def push(self, task: LiveTask) -> None:
        """Add a ready task."""
        heap = self._heaps.setdefault(task.record.executor, [])
        heapq.heappush(heap, (-task.record.priority, next(self._order), task))
        self._arrivals.append((task.ready_at, task))
        self.ready += 1

    def head(self, executor: str) -> tuple[int, int, LiveTask] | None:
        """The next task for this executor; tasks that were cancelled while they waited are skipped."""
        heap = self._heaps.get(executor)
        while heap:
            if heap[0][2].phase is Phase.READY:
                return heap[0]
            heapq.heappop(heap)
        return None

    def pop(self, executor: str) -> LiveTask:
        """Remove and return the head for this executor; it moves to its next phase."""
        task = heapq.heappop(self._heaps[executor])[2]
        task.advance(Step.GET_SLOT)
        self._left()
        return task

    def remove(self, task: LiveTask) -> None:
        """Remove a ready task; its entry in the heap is skipped later."""
        task.advance(Step.SET_ASIDE)
        self._left()
        heap = self._heaps[task.record.executor]
        if len(heap) > 2 * self.ready + _FEW:
            self._heaps[task.record.executor] = alive = [entry for entry in heap if entry[2].phase is Phase.READY]
            heapq.heapify(alive)

    def _left(self) -> None:
        self.ready -= 1
        while self._arrivals and not _still_waits(*self._arrivals[0]):
            self._arrivals.popleft()

    def oldest_ready(self) -> float | None:
        """The monotonic time at which the longest-waiting ready task became ready. Callable from any thread."""
        try:
            return self._arrivals[0][0]
        except IndexError:
            return None

    def stats(self, monotonic_now: float) -> QueueStats:
        """The current numbers."""
        oldest = self.oldest_ready()
        return QueueStats(
            name=self.name,
            concurrency=self.concurrency,
            max_size=self.max_size,
            running=self.running,
            ready=self.ready,
            delayed=self.delayed,
            paused=self.paused,
            shared=self.shared,
            claimed=self.claimed,
            oldest_ready_age=0.0 if oldest is None else max(0.0, monotonic_now - oldest),
        )


def _still_waits(arrived: float, task: LiveTask) -> bool:
    return task.phase is Phase.READY and task.ready_at == arrived


class Queues:
    """The queues of one manager by name; `default` always exists."""

    def __init__(
        self,
        configs: Mapping[str, QueueConfig],
        shared: Collection[str] = (),
        claims: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._queues = {DEFAULT_QUEUE: Queue(DEFAULT_QUEUE, configs.get(DEFAULT_QUEUE, QueueConfig()))}
        for name, config in configs.items():
            if name != DEFAULT_QUEUE:
                self._queues[name] = Queue(name, config)
        for name in shared:
            queue = self._queues[name]
            queue.shared, queue.claimed = True, not queue.by_doorbell and claims(name)

    def get(self, name: str) -> Queue:
        """The queue of this name; raises `UnknownQueueError`."""
        try:
            return self._queues[name]
        except (KeyError, TypeError):  # not even a name
            raise UnknownQueueError(name, self._queues) from None

    def of(self, task: LiveTask) -> Queue:
        """The queue of a task. A task from an instance with other queues waits in `default`."""
        return self._queues.get(task.record.queue) or self._queues[DEFAULT_QUEUE]

    def of_record(self, record: TaskRecord) -> Queue:
        """The queue of a stored task, like `of`."""
        return self._queues.get(record.queue) or self._queues[DEFAULT_QUEUE]

    def all(self) -> list[Queue]:
        """All queues, `default` first."""
        return list(self._queues.values())
