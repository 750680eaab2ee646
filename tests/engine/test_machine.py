"""Random walks through everything that can be done to tasks, with the books checked after each step."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from taskflow_otel import SLO, QueueConfig, QueueFullError, TaskManager, TaskRecord, TaskStateError
from taskflow_otel.backends import Backend, MemoryBackend, SqliteBackend
from taskflow_otel.exporters import signals
from taskflow_otel.exporters.prometheus.values import Histogram
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.status import TRANSITIONS, TaskStatus, Transition
from taskflow_otel.testing.clock import FakeClock, settle
from tests.inside import own_context
from tests.waiting import eventually

QUEUES = {
    "default": QueueConfig(concurrency=2),
    "narrow": QueueConfig(concurrency=1, max_size=3),
    "wide": QueueConfig(),
}
GLOBAL_CAP = 5
RETRY_DELAY = 5.0
WITHIN = 15.0
"""The seconds in which a task must succeed by the objective of its type."""


class JobError(Exception):
    """What a job is told to raise."""


@dataclass
class Books:
    """What the test itself knows, independently of the engine."""

    kinds: dict[str, str] = field(default_factory=dict)
    """The task type of each task, by id, in order of creation."""
    entries: Counter[str] = field(default_factory=Counter)
    """How often each task's function was entered, over all lives."""
    ends: Counter[str] = field(default_factory=Counter)
    inside: dict[str, asyncio.Future[str]] = field(default_factory=dict)
    """Functions that run now: each waits for the word that ends it."""
    rejected: int = 0
    judged: Counter[str] = field(default_factory=Counter)
    """How often earlier managers counted each result of an objective."""
    violations: list[str] = field(default_factory=list)


class TaskMachine(RuleBasedStateMachine):
    """One manager (and its successors) over one backend, with a clock that the machine turns."""

    def make_backend(self) -> Backend:
        """The backend that outlives each manager."""
        self.memory = getattr(self, "memory", None) or MemoryBackend(durable=True)
        return self.memory

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.clock = FakeClock()
        self.books = Books()
        # What is changed at run time holds for every later life.
        self.limits = {name: config.concurrency for name, config in QUEUES.items()}
        self.paused: set[str] = set()
        self.waiting_before: dict[str, TaskRecord] = {}
        self.run(self.start_manager())

    def run(self, step: Coroutine[Any, Any, Any]) -> Any:
        """Run one step on the machine's event loop, whose other tasks wait in between."""
        return self.runner.run(step)

    async def start_manager(self) -> None:
        self.manager = TaskManager(
            snapshot_backend=self.make_backend(),
            clock=self.clock,
            queues=QUEUES,
            max_concurrent_tasks=GLOBAL_CAP,
            shutdown_timeout=0,
        )
        retries: dict[str, Any] = {"retries": 1, "delay": RETRY_DELAY, "slo": SLO(success=0.9, within=WITHIN)}
        self.functions = {
            "kept": self.declare("kept", persist=True, requeue_on_interrupt=True, **retries),
            "once": self.declare("once", persist=True, **retries),
            "light": self.declare("light", **retries),
        }
        await self.manager.startup()

    def declare(self, name: str, **options: Any) -> Any:
        async def job() -> None:
            task_id = own_context().task_id
            self.enter(task_id)
            self.books.inside[task_id] = word = asyncio.get_running_loop().create_future()
            try:
                if await word == "fail":
                    raise JobError
            finally:
                del self.books.inside[task_id]
                self.books.ends[task_id] += 1

        return self.manager.task(name=name, **options)(job)

    def enter(self, task_id: str) -> None:
        """A function was entered: nothing may have been against it."""
        record = self.manager.store.get(task_id)
        books = self.books
        books.entries[task_id] += 1
        if record is None or record.status is not TaskStatus.RUNNING:
            books.violations.append(f"{task_id} runs, and its record says {record}")
            return
        if task_id in books.inside:
            books.violations.append(f"{task_id} runs twice at once")
        # A limit is one for new starts: what ran before it was lowered may continue.
        limit = self.limits[record.queue]
        beside = sum(self.queue_of(other) == record.queue for other in books.inside)
        if limit is not None and beside >= limit:
            books.violations.append(f"{task_id} started beside {beside} others in {record.queue}, limit {limit}")
        if len(books.inside) >= GLOBAL_CAP:
            books.violations.append(f"{task_id} started beside {len(books.inside)} others, cap {GLOBAL_CAP}")
        if record.queue in self.paused:
            books.violations.append(f"{task_id} started in {record.queue}, which is paused")

    def queue_of(self, task_id: str) -> str:
        record = self.manager.store.get(task_id)
        assert record is not None
        return record.queue

    # -- what may happen

    @rule(
        kind=st.sampled_from(["kept", "once", "light"]),
        queue=st.sampled_from(sorted(QUEUES)),
        priority=st.sampled_from([None, 1, 9]),
        delay=st.sampled_from([None, 3.0, 20.0]),
        key=st.sampled_from([None, None, None, "a", "b"]),
    )
    def enqueue(self, kind: str, queue: str, priority: int | None, delay: float | None, key: str | None) -> None:
        async def step() -> None:
            try:
                task_id = await self.manager.enqueue(
                    self.functions[kind], queue=queue, priority=priority, delay=delay, idempotency_key=key
                )
            except QueueFullError:
                self.books.rejected += 1
            else:
                self.books.kinds.setdefault(task_id, kind)

        self.step(step())

    @precondition(lambda self: self.books.inside)
    @rule(data=st.data(), word=st.sampled_from(["succeed", "fail"]))
    def end_one(self, data: st.DataObject, word: str) -> None:
        chosen = data.draw(st.sampled_from(list(self.books.inside)))

        async def step() -> None:
            self.books.inside[chosen].set_result(word)

        self.step(step())

    @precondition(lambda self: self.books.kinds)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(list(self.books.kinds)))

        async def step() -> None:
            before = await self.manager.get(chosen)
            if before.status.finished:
                with pytest.raises(TaskStateError):
                    await self.manager.cancel(chosen)
                return
            await self.manager.cancel(chosen)
            await self.quiesce()
            after = await self.manager.get(chosen)
            assert after.status is TaskStatus.CANCELLED, after
            assert chosen not in self.books.inside

        self.step(step())

    @precondition(lambda self: self.books.kinds)
    @rule(data=st.data())
    def retry_by_hand(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(list(self.books.kinds)))

        async def step() -> None:
            before = await self.manager.get(chosen)
            try:
                record = await self.manager.retry(chosen, rerun=True)
            except TaskStateError:
                assert not before.status.finished or before.retried_by or before.idempotency_key
            except QueueFullError:
                self.books.rejected += 1
            else:
                assert record.retry_of == chosen
                assert (await self.manager.get(chosen)).retried_by == record.task_id
                self.books.kinds[record.task_id] = self.books.kinds[chosen]

        self.step(step())

    @rule(queue=st.sampled_from(sorted(QUEUES)))
    def pause_or_resume(self, queue: str) -> None:
        async def step() -> None:
            if queue in self.paused:
                self.paused.discard(queue)
                await self.manager.resume_queue(queue)
            else:
                self.paused.add(queue)
                await self.manager.pause_queue(queue)

        self.step(step())

    @rule(queue=st.sampled_from(sorted(QUEUES)), limit=st.sampled_from([None, 1, 2, 4]))
    def resize(self, queue: str, limit: int | None) -> None:
        async def step() -> None:
            self.limits[queue] = limit
            await self.manager.update_queue_config(queue, concurrency=limit)

        self.step(step())

    @rule(seconds=st.sampled_from([1.0, RETRY_DELAY, 30.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.step(self.clock.advance(seconds))

    @rule()
    def restart(self) -> None:
        async def step() -> None:
            live = self.manager.store.list()
            await self.manager.shutdown()
            assert not self.books.inside, "a task runs after the shutdown"
            self.books.judged += self.judged()
            await self.start_manager()
            kept = {
                record.task_id
                for record in live
                if record.persisted and (record.status is TaskStatus.PENDING or record.func_name == "kept")
            }
            await eventually(lambda: self.live_ids() == kept, "every promised task to be back", interval=0.002)

        self.step(step())

    # -- what must hold

    def step(self, step: Coroutine[Any, Any, None]) -> None:
        async def whole() -> None:
            await step
            await self.quiesce()
            self.check_order()

        self.run(whole())

    async def quiesce(self) -> None:
        """Wait until whatever may start has started: that it comes to this is half of the test."""
        await eventually(self.quiet, "the engine to come to rest", interval=0.002)

    async def quiet(self) -> bool:
        await settle()
        stats = self.manager.queue_stats()
        if sum(queue.running for queue in stats.values()) != len(self.books.inside):
            return False
        if sum(queue.running + queue.ready + queue.delayed for queue in stats.values()) != len(self.live_ids()):
            return False
        if self.manager.engine.vitals.unpublished():
            return False
        if len(self.books.inside) >= GLOBAL_CAP:
            return True
        return all(
            queue.paused or not queue.ready or (queue.concurrency is not None and queue.running >= queue.concurrency)
            for queue in stats.values()
        )

    def check_order(self) -> None:
        """Of the tasks that were waiting before this step, none that started may rank below one that still waits."""
        now = {record.task_id: record for record in self.manager.store.list()}
        before = self.waiting_before
        started = [record for record in before.values() if record.task_id in self.books.inside]
        still = [now[task_id] for task_id in before if task_id in now and now[task_id].status is TaskStatus.PENDING]
        for first in started:
            for other in still:
                if first.queue == other.queue:
                    assert (-first.priority, first.task_id) < (-other.priority, other.task_id) or (
                        first.priority == other.priority and (first.run_at or other.run_at)
                    ), f"{first.task_id} overtook {other.task_id}"
        self.waiting_before = {
            record.task_id: record
            for record in now.values()
            if record.status is TaskStatus.PENDING and (record.run_at is None or record.run_at <= self.clock.now())
        }

    def live_ids(self) -> set[str]:
        return {record.task_id for record in self.manager.store.list()}

    @invariant()
    def no_rule_was_broken(self) -> None:
        assert self.books.violations == []

    @invariant()
    def the_books_agree(self) -> None:
        self.run(self.compare_books())

    async def compare_books(self) -> None:
        engine = self.manager.engine
        stored: dict[str, TaskRecord] = {}
        cursor: str | None = None
        while True:
            page = await engine.lookup.page(TaskQuery(limit=100, cursor=cursor))
            stored.update((record.task_id, record) for record in page.records)
            if (cursor := page.next_cursor) is None:
                break
        refused = {task_id: record for task_id, record in stored.items() if record.status is TaskStatus.REJECTED}
        reasons = Counter(record.reason for record in refused.values())
        assert reasons["queue_full"] == self.books.rejected
        # Who held the key was in the ledger alone, as it is after a restart.
        duplicates = [record for record in refused.values() if record.reason == "duplicate"]
        assert all(record.duplicate_of in self.books.kinds for record in duplicates)
        assert reasons.total() == self.books.rejected + len(duplicates)
        assert stored.keys() - refused.keys() == self.books.kinds.keys(), "a task was lost, or came from nowhere"
        for task_id, record in stored.items():
            self.check_record(task_id, record)

        statuses = Counter(record.status for record in stored.values())
        stats = self.manager.queue_stats()
        for name, queue in stats.items():
            assert (queue.concurrency, queue.paused) == (self.limits[name], name in self.paused)
            pending = sum(r.queue == name and r.status is TaskStatus.PENDING for r in stored.values())
            assert queue.ready + queue.delayed == pending, (name, queue)
            assert queue.running == sum(r.queue == name and r.status is TaskStatus.RUNNING for r in stored.values())
        counts = await engine.lookup.counts(TaskQuery())
        assert {status: count for status, count in counts.by_status.items() if count} == dict(statuses)
        assert self.live_ids() == {task_id for task_id, record in stored.items() if not record.status.finished}
        self.check_metrics()
        self.check_objectives(stored)

    def judged(self) -> Counter[str]:
        """How often this manager has counted each result."""
        counts: Counter[str] = Counter()
        for (_, result), value in self.manager.metrics.snapshot()[signals.SLO_EVENTS.name].items():
            assert not isinstance(value, Histogram)
            counts[result] += int(value)
        return counts

    def check_objectives(self, stored: dict[str, TaskRecord]) -> None:
        """Each task is judged once, and at once: by its end, or by its time limit if that comes first."""
        expected: Counter[str] = Counter()
        for record in stored.values():
            if record.status is TaskStatus.REJECTED:
                continue
            late = Transition.OBJECTIVE_MISSED in {entry.transition for entry in record.timeline}
            due = record.due_at
            assert due is not None
            assert late or record.status.finished or self.clock.now() < due, f"{record.task_id} was due at {due}"
            if late or record.status in {TaskStatus.FAILED, TaskStatus.INTERRUPTED}:
                expected["bad"] += 1
            elif record.status is TaskStatus.SUCCESS:
                assert record.end_time is not None
                expected["good" if record.end_time <= due else "bad"] += 1
            elif record.status is TaskStatus.CANCELLED and record.reason != "cancelled":
                expected["bad"] += 1
        assert self.books.judged + self.judged() == expected

    def check_metrics(self) -> None:
        snapshot = self.manager.metrics.snapshot()
        stats = self.manager.queue_stats()
        running: Counter[str] = Counter()
        for (_, queue), value in snapshot[signals.TASKS_RUNNING.name].items():
            assert not isinstance(value, Histogram)
            running[queue] += int(value)
        assert {name: running[name] for name in stats} == {name: queue.running for name, queue in stats.items()}
        depth = snapshot[signals.QUEUE_DEPTH.name]
        for name, figures in stats.items():
            assert (depth[name, "ready"], depth[name, "delayed"]) == (figures.ready, figures.delayed)

    def check_record(self, task_id: str, record: TaskRecord) -> None:
        status: TaskStatus | None = None
        for entry in record.timeline:
            status = TRANSITIONS[status, entry.transition]
        assert status is record.status
        transitions = Counter(entry.transition for entry in record.timeline)
        entries = self.books.entries[task_id]
        assert entries <= transitions[Transition.STARTED] <= entries + transitions[Transition.CANCELLED]
        assert (task_id in self.books.inside) == (record.status is TaskStatus.RUNNING)
        assert record.retries_used == transitions[Transition.RETRY_SCHEDULED] <= 1
        if record.status is TaskStatus.SUCCESS:
            assert transitions[Transition.SUCCEEDED] == 1
            assert self.books.ends[task_id] == entries

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.run(self.manager.shutdown())
            self.runner.close()


class SqliteMachine(TaskMachine):
    """The same over a real database, whose commits take their time."""

    def make_backend(self) -> Backend:
        self.directory = getattr(self, "directory", None) or Path(tempfile.mkdtemp())
        return SqliteBackend(self.directory / "tasks.db", durability="normal")

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "directory"):
            shutil.rmtree(self.directory)


_ANY_SPEED: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


class TestInMemory(TaskMachine.TestCase):  # type: ignore[valid-type, misc]  # made by hypothesis
    settings = settings(max_examples=40, stateful_step_count=40, **_ANY_SPEED)


class TestOnSqlite(SqliteMachine.TestCase):  # type: ignore[valid-type, misc]  # as above
    settings = settings(max_examples=6, stateful_step_count=25, **_ANY_SPEED)
