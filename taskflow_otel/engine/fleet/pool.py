"""The shared queues: ready tasks go into the pool, and instances with free slots claim them from there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime, timedelta

from taskflow_otel.backends.pool import Claimed, Pooled, PoolStore, Wanted
from taskflow_otel.engine.dispatch import Dispatcher
from taskflow_otel.engine.intake import Intake
from taskflow_otel.engine.life import Life
from taskflow_otel.engine.lifecycle import Lifecycle
from taskflow_otel.engine.live import LiveTask, LiveTasks
from taskflow_otel.engine.membership import Membership, Ownership
from taskflow_otel.engine.phase import Phase, Step
from taskflow_otel.engine.queues import Queue, Queues
from taskflow_otel.engine.registry import TaskDefinition, TaskRegistry
from taskflow_otel.errors import BackendError, BackendUnavailableError, NotStartedError, UnknownTaskError
from taskflow_otel.model.cipher import seal_of
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.vocabulary import Reason
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.owned_tasks import OwnedTasks
from taskflow_otel.runtime.retrying import Backoff, retrying
from taskflow_otel.runtime.service import Service
from taskflow_otel.runtime.throttled_report import Throttle

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")

POLL = 1.0
"""Seconds between two looks at the pool without any news of it."""
AT_ONCE = 100
"""Tasks of one queue that run, or wait for a slot, on an instance that limits neither its queue nor its executor; also
the most that one claim takes from a queue."""
_GIFT = 500
_BACKOFF = Backoff(first=0.1, longest=5.0)


class Pool(Service):
    """Gives ready tasks of shared queues to the pool, and claims as many as this instance has free slots for.

    Until a gift is committed, its task belongs to this instance, in the phase `ENDING`: if the process dies before
    that, the instance that takes the task over gives it to the pool. `stop` cancels a claimed task whose cancellation
    was asked for while it was in the pool. `concurrency`: tasks of shared queues that run here at once; `None` means
    that only the limits of queues and executors apply.

    Tasks of other queues are in the pool too: for the moment between the commit of a caller's transaction and its
    notice, and from a deployment that shared their queue. `strays`: seconds between two looks for those that nobody has
    taken since; `None`: it never looks.
    `noticed` is called with the id of each claimed task, before it can start, and `ring` with the tasks that have just
    come into the pool from here.
    """

    def __init__(
        self,
        store: PoolStore,
        queues: Queues,
        dispatcher: Dispatcher,
        intake: Intake,
        registry: TaskRegistry,
        tasks: LiveTasks,
        lifecycle: Lifecycle,
        stop: Callable[[LiveTask, Reason], Awaitable[None]],
        clock: Clock,
        membership: Membership,
        life: Life,
        background: OwnedTasks,
        *,
        seals: Collection[str] = (),
        concurrency: int | None = None,
        strays: float | None = None,
        noticed: Callable[[str], None] = lambda _: None,
        ring: Callable[[Sequence[TaskRecord]], None] = lambda _: None,
    ) -> None:
        super().__init__("pool", POLL, clock, longest_backoff=_BACKOFF.longest)
        self._store = store
        self._queues = queues
        self._dispatcher = dispatcher
        self._intake = intake
        self._registry = registry
        self._tasks = tasks
        self._lifecycle = lifecycle
        self._stop_task = stop
        self._clock = clock
        self._membership = membership
        self._life = life
        self._background = background
        self._seals = seals
        self._concurrency = concurrency
        self._strays = strays
        self._noticed = noticed
        self._ring = ring
        self._strays_due = float("-inf")
        self.claims: dict[str, int] = {}
        """How many tasks this process has claimed to run, by queue."""
        self._given: Callable[[TaskRecord], None] = lambda _: None
        self._told: Callable[[], bool] = lambda: False
        self._throttle = Throttle(clock)
        self._gifts: list[LiveTask] = []
        self._giver: asyncio.Task[None] | None = None
        self._look_due = False
        self._looking = False
        self._more = True
        """Whether the latest look left tasks in the pool, as far as is known."""
        self._turn = 0
        self._one_at_a_time = asyncio.Lock()
        self._unsure: set[str] = set()
        """The tasks whose claims got no answer, while it is found out what came of them."""

    async def start(self) -> None:
        """See `Service`."""
        self._one_at_a_time = asyncio.Lock()
        self._giver, self._look_due, self._looking, self._more = None, False, False, True
        self._strays_due = float("-inf")
        self._gifts.clear()
        await super().start()

    def connect(self, given: Callable[[TaskRecord], None]) -> None:
        """Call this with each task that has come into the pool from here."""
        self._given = given

    def connect_news(self, told: Callable[[], bool]) -> None:
        """Set what says whether tasks that come into the pool elsewhere tell of themselves now."""
        self._told = told

    def share(self, task: LiveTask) -> None:
        """Give a ready task to the pool. The tasks of a moment share one transaction."""
        task.advance(Step.END)
        self._gifts.append(task)
        if self._giver is None:
            self._giver = self._background.own(self._give())
        task.arrival = self._giver

    def look(self) -> None:
        """Look for work soon: there may be a new task in the pool."""
        if not self._look_due and self._life.running and self._claimed():
            self._look_due = True
            if not self._looking:
                self._looking = True
                self._background.own(self._look())

    def freed(self) -> None:
        """A slot of a shared queue is free again: look for work soon, unless it is known that the pool has none."""
        if self._more or not self._told():
            self.look()

    async def tick(self) -> None:
        """Claim tasks until the pool has none for this instance, or the slots are used up."""
        async with self._one_at_a_time:
            # If the look fails, too.
            self._more, more = True, False
            for queue in self._in_turn():
                for executor, names in self._names().items():
                    more |= not await self._claim(queue, executor, names)
            self._more = more
            now = self._clock.monotonic()
            if self._strays is not None and now >= self._strays_due:
                await self._claim_strays()
                self._strays_due = now + self._strays

    async def _claim_strays(self) -> None:
        """Claim the tasks of queues that are not shared: they belong to the first instance that finds them."""
        own = [queue.name for queue in self._queues.all() if not queue.shared]
        for name in await self._store.depth(own) if own else ():
            for executor, names in self._names().items():
                await self._claim(self._queues.get(name), executor, names)

    def _in_turn(self) -> list[Queue]:
        """The queues to claim from; each round begins with another one, so that none has all slots for itself."""
        mine = self._claimed()
        self._turn += 1
        first = self._turn % len(mine) if mine else 0
        return mine[first:] + mine[:first]

    def _claimed(self) -> list[Queue]:
        return [queue for queue in self._queues.all() if queue.shared and queue.claimed and not queue.by_doorbell]

    def _names(self) -> dict[str, list[str]]:
        """The names of tasks that run here, by executor."""
        names: dict[str, list[str]] = {}
        for definition in self._registry.all():
            names.setdefault(definition.config.executor, []).append(definition.name)
        return names

    async def _claim(self, queue: Queue, executor: str, names: Collection[str]) -> bool:
        """Claim as many tasks as may run here; return whether the pool certainly has no more of them."""
        while self._life.running and (limit := self._free(queue, executor)) > 0:
            await self._membership.ensure_lease()
            owner = self._membership.instance.instance_id
            of_all = queue.concurrency if queue.of_all else None
            claimed = await self._store.claim(owner, Wanted(queue.name, names, limit, of_all), self._seals)
            # Under another id, these tasks belong to an instance that was declared dead, and after a stop to one that
            # has stopped: they will be taken over.
            if owner == self._membership.instance.instance_id and self._life.running:
                self._begin(claimed)
            if len(claimed) < limit:
                # A claim may also end at the slots of all instances, of which one is free with any outcome.
                return of_all is None
        return False

    def _free(self, queue: Queue, executor: str) -> int:
        """How many more tasks of a queue may run here now, or wait here if it is not shared."""
        if not queue.shared:
            return AT_ONCE
        if queue.paused:
            return 0
        slots = self._dispatcher.slots[executor]
        here = sum(other.running + other.ready for other in self._queues.all() if other.shared)
        return min(
            _left(queue.concurrency, queue.running + queue.ready),
            _left(slots.capacity, slots.used + queue.ready),
            _left(self._concurrency, here),
        )

    async def claim_one(self, task_id: str) -> LiveTask | None:
        """Claim one task if it is in the pool, without letting it start.

        Raises `BackendError` if that is not known in time. If the claim succeeds after that, or after its caller was
        cancelled, the task goes back into the pool: nobody else would run it.
        """
        await self._membership.ensure_lease()
        if task_id in self._unsure:
            raise BackendUnavailableError(f"an earlier claim of task {task_id} has no answer yet")
        answer: asyncio.Future[LiveTask | None] = asyncio.get_running_loop().create_future()
        self._background.own(self._claim_one(task_id, answer))
        try:
            return await answer
        except asyncio.CancelledError:
            if not answer.cancelled() and answer.exception() is None:
                self._give_back(answer.result())
            raise

    async def _claim_one(self, task_id: str, answer: asyncio.Future[LiveTask | None]) -> None:
        owner = self._membership.instance.instance_id
        try:
            claimed = await self._store.claim_one(owner, task_id)
        except BackendError as exc:
            if not answer.done():
                answer.set_exception(exc)
            if not exc.transient or task_id in self._unsure:
                return
            self._unsure.add(task_id)
            try:
                claimed = await self._what_was_claimed(owner, task_id)
            finally:
                self._unsure.discard(task_id)
        except asyncio.CancelledError:
            if not answer.done():
                answer.set_exception(NotStartedError(self._life.state.value))
            raise
        except Exception as exc:
            if answer.done():
                raise
            answer.set_exception(exc)
            return
        # Under another id, it belongs to an instance that was declared dead, and will be taken over.
        mine = owner == self._membership.instance.instance_id
        task: LiveTask | None = None
        if claimed is not None and mine and not self._tasks.has(claimed.record):
            task = self._adopt(claimed.record)
            task.pooled_since = claimed.since
        if answer.done():
            self._give_back(task)
        else:
            answer.set_result(task)

    async def _what_was_claimed(self, owner: str, task_id: str) -> Claimed | None:
        """Find out what came of a claim without an answer."""

        async def claim() -> Claimed | None:
            if not self._life.running or owner != self._membership.instance.instance_id:
                return None
            return await self._store.claim_one(owner, task_id)

        return await retrying(self._clock, claim, backoff=_BACKOFF)

    def _give_back(self, task: LiveTask | None) -> None:
        """Nobody waits for this task any more: others may run it."""
        if task is not None and task.phase is Phase.HELD:
            self.share(task)

    async def answer(self, task_id: str, queue: str) -> LiveTask | None:
        """Claim the task of a doorbell and let it start; `None` if it is not in the pool, or cannot run here now.

        While the backend is away, it is tried again: a claim without an answer may have made this instance the owner.
        """
        names = [definition.name for definition in self._registry.all()]
        wanted = Wanted(queue, names, 1, task_id=task_id)

        async def claim() -> LiveTask | None:
            async with self._one_at_a_time:
                if not self._life.running or any(one.name == queue and one.paused for one in self._queues.all()):
                    return None
                await self._membership.ensure_lease()
                owner = self._membership.instance.instance_id
                claimed = await self._store.claim(owner, wanted, self._seals)
                if owner == self._membership.instance.instance_id and self._life.running:
                    self._begin(claimed)
                mine = any(one.record.task_id == task_id for one in claimed)
                return self._tasks.live(task_id) if mine else None

        return await retrying(self._clock, claim, backoff=_BACKOFF, judge=self._judge_answer)

    def _judge_answer(self, exc: Exception, wait: float) -> None:
        if not isinstance(exc, BackendError) or not self._life.running:
            raise exc
        if self._throttle.passes("answer"):
            logger.warning("a doorbell could not be answered (%s); the next try is in %.1f s", exc, wait)

    async def _look(self) -> None:
        try:
            while self._look_due:
                # One turn of the event loop, so that all slots that are freed in this one are filled by one claim.
                await asyncio.sleep(0)
                # What asks for a look from here on may have missed this one.
                self._look_due = False
                await self.tick()
        except BackendError:
            # The next round reports it, and tries again.
            self._look_due = False
        finally:
            self._looking = False

    def _begin(self, claimed: Sequence[Claimed]) -> None:
        now, monotonic = self._clock.now(), self._clock.monotonic()
        with self._dispatcher.together():
            for one in claimed:
                # The answer to a claim that was lost may name tasks that are here already.
                if self._tasks.has(one.record):
                    continue
                task = self._adopt(one.record)
                if task.record.cancel_requested:
                    self._background.own(self._cancel(task))
                    continue
                if one.since > now:
                    # It was added with a delay, in a transaction. It waits here, and is shared again after that.
                    task.claimed = False
                    self._intake.hand_over([task])
                    continue
                self.claims[one.record.queue] = self.claims.get(one.record.queue, 0) + 1
                # The clocks of two hosts differ.
                waited = max(timedelta(0), now - one.since).total_seconds()
                self._intake.line_up_claimed(task, monotonic - waited)

    def _adopt(self, record: TaskRecord) -> LiveTask:
        self._noticed(record.task_id)
        definition = self._definition(record)
        record.executor = definition.config.executor
        task = LiveTask(record, definition, None, None, None, durable=True)
        task.stored = task.claimed = True
        task.advance(Step.KNOWN)
        self._tasks.add(task)
        if record.idempotency_key is not None:
            self._tasks.hold_key(record.idempotency_key, record.task_id)
        self._lifecycle.claimed(record)
        return task

    def _definition(self, record: TaskRecord) -> TaskDefinition:
        try:
            return self._registry.get(record.func_name)
        except UnknownTaskError:
            # Only to cancel it.
            return self._registry.placeholder(record.func_name)

    async def _cancel(self, task: LiveTask) -> None:
        await self._stop_task(task, Reason.CANCELLED)

    async def _give(self) -> None:
        try:
            while self._gifts:
                gifts, self._gifts = self._gifts[:_GIFT], self._gifts[_GIFT:]
                await self._give_some(gifts)
        finally:
            self._giver = None
        self.look()

    async def _give_some(self, gifts: Sequence[LiveTask]) -> None:
        since, mine = self._clock.now(), list[LiveTask]()

        async def give() -> None:
            await self._membership.ensure_lease()
            # One that was lost belongs to another instance, which decides about it.
            mine[:] = [task for task in gifts if task.cancel_reason is not Ownership.LOST]
            pooled = [self._pooled(task, since) for task in mine]
            await self._store.give(self._membership.instance.instance_id, pooled)

        await retrying(self._clock, give, backoff=_BACKOFF, judge=self._judge)
        self._ring([task.record for task in mine])
        for task in gifts:
            self._queues.of(task).leave_place(task)
            if task.phase is Phase.GONE:
                continue
            if task.cancel_reason is Ownership.LOST:
                self._lifecycle.fenced(task)
            else:
                self._lifecycle.given(task)
                self._given(task.record)

    def _pooled(self, task: LiveTask, now: datetime) -> Pooled:
        since, record = task.pooled_since, task.record
        # One that was only looked at goes back where it was; its queue need not be declared here.
        queue = self._queues.of(task).name if since is None else record.queue
        return Pooled(
            record.task_id, queue, record.priority, record.func_name, seal_of(record.payload), record.created_at,
            since or now,
        )  # fmt: skip

    def _judge(self, exc: Exception, wait: float) -> None:
        if not isinstance(exc, BackendError):
            raise exc
        self.count_failure()
        if self._throttle.passes("gift"):
            logger.warning("tasks could not be given to the pool (%s); the next try is in %.1f s", exc, wait)


def _left(capacity: int | None, used: int) -> int:
    return (AT_ONCE if capacity is None else min(capacity, AT_ONCE)) - used
