"""Doorbells: the messages that tell another engine, such as Celery, of tasks in the pool.

The ledger has the tasks; a message only says that there is one. So a message may be lost, doubled, late or wrong: who
answers it claims the task, which one instance alone can do, or finds nothing. A sweep rings again for tasks that nobody
has claimed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence, Set
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple, Protocol

from taskflow_otel.backends.pool import POOL, PoolDepth
from taskflow_otel.engine.life import Life, at_home
from taskflow_otel.engine.live import LiveTask
from taskflow_otel.engine.membership import Membership
from taskflow_otel.engine.phase import Phase
from taskflow_otel.engine.queues import Queue, Queues
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.board import Said
from taskflow_otel.model.query import TaskPage, TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.trace import SpanRef
from taskflow_otel.model.vocabulary import DoorbellResult, InstanceKind
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.deadline import within
from taskflow_otel.runtime.retrying import Backoff
from taskflow_otel.runtime.service import Service
from taskflow_otel.runtime.side_thread import SideThread
from taskflow_otel.runtime.throttled_report import Throttle

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")

SWEEP = 5.0
"""Seconds between two looks for tasks whose doorbell nobody has answered."""
AGE = 10.0
"""Seconds for which a task must have waited before a sweep rings again."""
AGAIN = Backoff(first=10.0, longest=300.0)
"""The waits between two rings of a sweep for the same task: nobody may be able to run it."""
_WHOLE = 60
"""One sweep in 60 does not count the messages that the broker has: those of others may be among them. In the same
rhythm, each instance sweeps once itself: the one that does it for all may run another version of the code."""
_AT_ONCE = 500
"""The most rings of one sweep for one destination."""
_PAGE = 100
_PAGES = 20
"""The most pages of waiting tasks that one sweep reads for a queue: most of them may be due much later."""
_PATIENCE = 5.0
"""Seconds for the number of messages."""
_CAPACITY = 10_000
"""Rings that may wait for the broker; a sweep makes up for those beyond."""
_PAUSE = 1.0
"""Seconds without a try after the broker has failed, so that the rings that wait do not take its time-out each."""
_STEP = 0.02


class Ring(NamedTuple):
    """What a message needs."""

    task_id: str
    queue: str
    func_name: str
    celery_queue: str | None
    created: SpanRef
    """The `send` span."""


class Bell(Protocol):
    """Where messages are published. One thread calls it."""

    def ring(self, ring: Ring) -> None:
        """Publish a message; raises if the broker does not take it."""

    def waiting(self, celery_queue: str | None) -> int:
        """How many messages the broker has that no worker has got yet; raises if it does not answer."""

    def close(self) -> None:
        """Close the connection."""


class Speaks(Protocol):
    """The part of `Board` that is needed here."""

    kind: InstanceKind

    async def read(self) -> Mapping[str, Said]:
        """What each living instance says, this one included, by its id."""


class Doorbells(Service):
    """Rings for each task that comes into the pool for Celery, and answers the doorbells that arrive here.

    A ring is published by a thread of its own, and may fail: the task waits in the ledger. One of the living instances
    sweeps for all: it compares the number of tasks in the pool with that of the messages in the broker, and rings again
    for as many as are missing. Messages that a worker has fetched and not begun are missing too. What is rung for them
    in excess stays in the broker, so that the next sweep finds none missing.
    """

    def __init__(
        self,
        queues: Queues,
        depth: Callable[[Collection[str]], Awaitable[Mapping[str, PoolDepth]]],
        page: Callable[[TaskQuery], Awaitable[TaskPage]],
        claim: Callable[[str, str], Awaitable[LiveTask | None]],
        board: Speaks,
        clock: Clock,
        membership: Membership,
        life: Life,
    ) -> None:
        super().__init__("doorbells", SWEEP, clock)
        self._queues = queues
        self._depth = depth
        self._page = page
        self._claim = claim
        self._board = board
        self._clock = clock
        self._membership = membership
        self.life = life
        self._bell: Bell | None = None
        self._thread = SideThread("taskflow-doorbells", _CAPACITY)
        self._throttle = Throttle(clock)
        self._silent_until = float("-inf")
        self._sweeps = 0
        self._cursors: dict[str, str | None] = {}
        self._rung_again: dict[str, tuple[int, float]] = {}
        """By task: how often a sweep has rung for it, and the monotonic time before which it does not again."""
        self._met: set[str] = set()
        self.counts: dict[tuple[str, DoorbellResult], int] = {
            (queue.name, result): 0 for queue in self._rung() for result in DoorbellResult
        }
        """Doorbells by queue and result. Each entry is written by one thread."""

    def connect(self, bell: Bell) -> None:
        """Set where messages are published; raises `ConfigurationError` if that is set already."""
        if self._bell is not None:
            raise ConfigurationError("this TaskManager is connected with a Celery application already")
        self._bell = bell

    def serve(self) -> None:
        """This process answers doorbells: it claims no other tasks, and says what it is. Call it before the start."""
        self._board.kind = InstanceKind.CELERY
        for queue in self._queues.all():
            queue.claimed = queue.by_doorbell

    async def start(self) -> None:
        """See `Service`. Raises `ConfigurationError` if nothing is connected."""
        if self._bell is None:
            names = ", ".join(queue.name for queue in self._rung())
            raise ConfigurationError(
                f"the queues {names} have run='celery', but this TaskManager knows no Celery application: call "
                "taskflow_otel.celery.install(celery_app, task_manager) where both are defined"
            )
        self._silent_until = float("-inf")
        self._thread.start()
        await super().start()

    async def finish(self) -> None:
        """Publish what was rung, and close the connection."""
        if self._bell is not None:
            await self._thread.stop(self._bell.close)

    def ring(self, records: Sequence[TaskRecord]) -> None:
        """Tell of tasks that are in the pool now; those of other queues are passed over."""
        for record in records:
            queue = self._queues.of_record(record)
            if queue.by_doorbell:
                self._publish(record, queue)

    def _publish(self, record: TaskRecord, queue: Queue) -> None:
        bell = self._bell
        if bell is None:
            return
        ring = Ring(record.task_id, queue.name, record.func_name, queue.celery_queue, record.trace.creation)
        if not self._thread.submit(lambda: self._try(bell, ring)):
            self._failed(ring.queue, "too many of them wait for the broker")

    def _try(self, bell: Bell, ring: Ring) -> None:
        """Publish in the thread."""
        if self._clock.monotonic() < self._silent_until:
            self._failed(ring.queue, "the broker has just failed")
            return
        try:
            bell.ring(ring)
        except Exception as exc:
            self._silent_until = self._clock.monotonic() + _PAUSE
            self._failed(ring.queue, str(exc) or type(exc).__name__)
        else:
            self.counts[ring.queue, DoorbellResult.RUNG] += 1

    def _failed(self, queue: str, why: str) -> None:
        self.counts[queue, DoorbellResult.FAILED] += 1
        if self._throttle.passes(queue):
            logger.warning(
                "doorbells of queue %r could not be published (%s); their tasks wait in the ledger, and are rung again",
                queue,
                why,
            )

    async def tick(self) -> None:
        """Ring again for tasks that nobody has claimed."""
        self._sweeps += 1
        whole = self._sweeps % _WHOLE == 0
        rung = {queue.name: queue for queue in self._rung() if not queue.paused}
        first = await self._is_first(rung.keys())
        if not first and not whole:
            return
        depths = await self._depth(list(rung)) if rung else {}
        old = self._clock.now() - timedelta(seconds=AGE)
        of: dict[str | None, list[str]] = {}
        for name in depths:
            of.setdefault(rung[name].celery_queue, []).append(name)
        for celery_queue, names in of.items():
            if all(depths[name].oldest > old for name in names):
                continue
            missing = sum(depths[name].tasks for name in names)
            if not (first and whole):
                missing -= await self._messages(celery_queue, missing)
            for name in names:
                missing -= await self._sweep(rung[name], min(missing, _AT_ONCE))

    async def _is_first(self, queues: Set[str]) -> bool:
        """Whether this instance has the lowest id of all that have these queues: one sweeps for all of them."""
        said = await self._board.read()
        able = [instance_id for instance_id, one in said.items() if queues <= one.queues.keys()]
        return min(able) == self._membership.instance.instance_id

    async def _messages(self, celery_queue: str | None, unknown: int) -> int:
        """How many messages the broker has; `unknown` if it does not answer, so that nothing is rung."""
        bell = self._bell
        assert bell is not None
        try:
            async with within(self._clock, _PATIENCE):
                return await self._thread.ask(lambda: bell.waiting(celery_queue))
        except Exception as exc:
            if self._throttle.passes("sweep"):
                logger.warning(
                    "the broker does not say how many doorbells it has (%s); nothing is rung again until it does",
                    str(exc) or type(exc).__name__,
                )
            return unknown

    async def _sweep(self, queue: Queue, missing: int) -> int:
        """Ring again for at most `missing` tasks of a queue; return for how many."""
        rung = 0
        query = TaskQuery(status=TaskStatus.PENDING, queue=queue.name, limit=_PAGE)
        for _ in range(_PAGES):
            if rung >= missing:
                break
            page = await self._page(replace(query, cursor=self._cursors.get(queue.name)))
            for record in page.records:
                self._met.add(record.task_id)
                if rung < missing and record.instance == POOL and self._take_turn(record):
                    self.counts[queue.name, DoorbellResult.UNCLAIMED] += 1
                    self._publish(record, queue)
                    rung += 1
            # The next sweep continues where this one ends.
            self._cursors[queue.name] = page.next_cursor
            if page.next_cursor is None:
                self._forget()
                break
        return rung

    def _take_turn(self, record: TaskRecord) -> bool:
        """Whether a task waits so long that its doorbell may be lost; if so, not again for some time."""
        ready = max(record.created_at, record.run_at or record.created_at)
        times, at = self._rung_again.get(record.task_id, (0, float("-inf")))
        now = self._clock.monotonic()
        if now < at or ready > self._clock.now() - timedelta(seconds=AGE):
            return False
        self._rung_again[record.task_id] = times + 1, now + AGAIN.after(times + 1)
        return True

    def _forget(self) -> None:
        """Forget the tasks that a whole round has not met."""
        self._rung_again = {task_id: again for task_id, again in self._rung_again.items() if task_id in self._met}
        self._met.clear()

    @at_home
    async def answer(self, task_id: str, queue: str) -> bool:
        """Claim the task of a doorbell and run one attempt of it; return whether there was anything to do.

        Raises `NotStartedError`, and `BackendError` if the engine stops before the backend has answered.
        """
        self.life.require_running()
        task = await self._claim(task_id, queue)
        if task is None:
            return False
        # It has a slot at once unless the limits of its queue or executor are lower than those of Celery.
        while task.phase is Phase.READY:
            await self._clock.sleep(_STEP)
        if task.attempt is not None:
            await asyncio.wait({task.attempt})
        return True

    def _rung(self) -> list[Queue]:
        return [queue for queue in self._queues.all() if queue.by_doorbell]
