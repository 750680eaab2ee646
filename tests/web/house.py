"""A real manager with known data: what another instance has done is stored, and what this one does it does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from taskflow_otel import QueueConfig, TaskManager
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import AppendLogs, Applied, Change, Insert, Update
from taskflow_otel.engine.queues import QueueStats
from taskflow_otel.exporters.stream import LiveStream
from taskflow_otel.model.events import LogEvent
from taskflow_otel.model.failure import fingerprint_of, summary_of
from taskflow_otel.model.ids import new_task_id
from taskflow_otel.model.query import Instance, TaskCounts, TaskPage, TaskQuery
from taskflow_otel.model.record import LogEntry, Progress, TaskRecord, TimelineEntry
from taskflow_otel.model.schedule import ScheduleStatus
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.trace import SpanRef, TaskTrace
from taskflow_otel.testing.backends.samples import make_instance, matches
from taskflow_otel.web.failures import PROBLEMS

T = TypeVar("T")

INSTANCE = "web-1-7f3a"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
_ENDS = {
    TaskStatus.SUCCESS: Transition.SUCCEEDED,
    TaskStatus.FAILED: Transition.FAILED,
    TaskStatus.CANCELLED: Transition.CANCELLED,
    TaskStatus.INTERRUPTED: Transition.INTERRUPTED,
    TaskStatus.REJECTED: Transition.REJECTED,
}


def make_record(
    func_name: str = "send_email",
    status: TaskStatus = TaskStatus.SUCCESS,
    *,
    age: float = 60.0,
    wait: float = 0.02,
    duration: float = 0.4,
    **fields: Any,
) -> TaskRecord:
    """A record created `age` seconds ago that waited and ran for these seconds, with the timeline of its status."""
    created = datetime.now(UTC) - timedelta(seconds=age)
    started, ended = created + timedelta(seconds=wait), created + timedelta(seconds=wait + duration)
    attempt = fields.get("attempt", 0)
    timeline = [TimelineEntry(Transition.ENQUEUED, created, 0, INSTANCE)]
    record = TaskRecord(
        task_id=new_task_id(), func_name=func_name, status=status, created_at=created, instance=INSTANCE
    )
    if status not in {TaskStatus.PENDING, TaskStatus.REJECTED}:
        timeline.append(TimelineEntry(Transition.STARTED, started, attempt, INSTANCE))
        record.start_time = started
        record.trace = TaskTrace(creation=SpanRef("a" * 32, "b" * 16, 1))
    if status in _ENDS:
        timeline.append(TimelineEntry(_ENDS[status], ended, attempt, INSTANCE))
        record.end_time, record.duration = ended, duration
    record.timeline = tuple(timeline)
    record.payload = '{"v":1,"args":[],"kwargs":{}}'
    for name, value in fields.items():
        setattr(record, name, value)
    if status in PROBLEMS and not record.failures:
        texts: dict[str, Any] = {
            "error_type": record.error_type,
            "error": record.error,
            "stacktrace": record.stacktrace,
        }
        kind = fingerprint_of(func_name, status, reason=record.reason, **texts)
        record.failures = (summary_of(record.attempt, kind, **texts),)
    return record


class Watched(MemoryBackend):
    """A backend in memory whose queries are noted, and which a test can trouble."""

    def __init__(self) -> None:
        super().__init__(durable=True)
        self.queries: list[TaskQuery] = []
        self.unreadable: Exception | None = None
        self.unwritable: Exception | None = None
        self.window: int | None = None
        """How many tasks are looked at for one page of a search, as the SQL backends bound it."""

    async def apply(self, changes: Any) -> list[Applied]:
        if self.unwritable is not None:
            raise self.unwritable
        return await super().apply(changes)

    async def get(self, task_id: str) -> TaskRecord | None:
        self._read()
        return await super().get(task_id)

    async def page(self, query: TaskQuery) -> TaskPage:
        self._read(query)
        if query.q is None or self.window is None:
            page = await super().page(query)
            if query.count_limit is None or page.total is None or page.total < query.count_limit:
                return page
            # As the SQL backends say it, which do not keep the number of what a filter selects.
            return replace(page, total=query.count_limit, total_exact=False)
        walk = await super().page(replace(query, q=None, limit=self.window, count_limit=None))
        found = [record for record in walk.records if matches(record, query)]
        return TaskPage(found, walk.next_cursor, len(found), walk.next_cursor is None)

    async def counts(self, query: TaskQuery) -> TaskCounts:
        self._read(query)
        if query.q is not None and self.window is not None:
            page = await self.page(query)
            return TaskCounts(Counter(record.status for record in page.records), exact=page.total_exact)
        if query.count_limit is None or (await super().counts(query)).total < query.count_limit:
            return await super().counts(query)
        newest = (await super().page(replace(query, limit=query.count_limit))).records
        return TaskCounts(Counter(record.status for record in newest), exact=False)

    async def instances(self) -> list[Instance]:
        self._read()
        return await super().instances()

    def _read(self, query: TaskQuery | None = None) -> None:
        if query is not None:
            self.queries.append(query)
        if self.unreadable is not None:
            raise self.unreadable


class House:
    """A manager that runs on such a backend, beside another instance that lives as long as the test."""

    def __init__(self) -> None:
        self.backend = Watched()
        self.manager = TaskManager(
            snapshot_backend=self.backend,
            queues={"default": QueueConfig(concurrency=8), "mail": QueueConfig(concurrency=2, max_size=50)},
            snapshot_interval=0.01,
            shutdown_timeout=1,
        )
        for name in ("send_email", "build_report", "other", "report", "send"):
            self.manager.task(name=name)(_any_arguments())
        self.manager.task(name="send_report")(send_report)

    @property
    def stream(self) -> LiveStream:
        """The live stream."""
        return self.manager.stream

    @property
    def queues(self) -> Mapping[str, QueueStats]:
        """The queues as they are now."""
        return self.manager.queue_stats()

    @property
    def records(self) -> dict[str, TaskRecord]:
        """The tasks that are stored."""
        return {task_id: record.copy() for task_id, record in self.backend_records().items()}

    def backend_records(self) -> dict[str, TaskRecord]:
        page = at_once(MemoryBackend.page(self.backend, TaskQuery(limit=900)))
        return {record.task_id: record for record in reversed(page.records)}

    def schedule(self, name: str, **rule: Any) -> None:
        """Declare a recurring schedule, once a minute unless another rule is given."""
        self.manager.schedule(name=name, **(rule or {"every": 60}))(send_report)

    def schedule_of(self, name: str) -> ScheduleStatus:
        """How a schedule is."""
        return next(status for status in self.manager.schedules() if status.name == name)

    def open(self) -> None:
        """Let the other instance join."""
        other = make_instance(INSTANCE, host="elsewhere", heartbeat_at=datetime.now(UTC), lease_seconds=3600.0)
        at_once(self.backend.beat(other))

    def put(self, record: TaskRecord) -> TaskRecord:
        """Store what the other instance has done, and tell the live stream, as the watch of the fleet does."""
        known = at_once(MemoryBackend.get(self.backend, record.task_id)) is not None
        change: Change = Update(record) if known else Insert(record)
        at_once(self.backend.apply([change]))
        self.stream.inject(record.copy())
        return record

    def keep(self, record: TaskRecord) -> TaskRecord:
        """Store what the other instance has done, without telling the live stream."""
        at_once(self.backend.apply([Insert(record)]))
        return record

    def progress(self, record: TaskRecord, progress: Progress) -> None:
        """Store how far a task is, and tell it alone."""
        record.progress = progress
        at_once(self.backend.apply([Update(record)]))
        self.stream.on_progress(record)

    def stored_ids(self) -> list[str]:
        """The ids of all stored tasks."""
        return [record.task_id for record in at_once(self.backend.changed_since(LONG_AGO, not_of="", limit=10_000))]

    def log(self, record: TaskRecord, message: str, level: str = "info", **extra: Any) -> None:
        """Store a log entry of a task."""
        number = len(at_once(self.backend.logs(record.task_id)))
        entry = LogEntry(number, datetime.now(UTC), level, message, record.attempt, extra)
        at_once(self.backend.apply([AppendLogs(record.task_id, (entry,))]))
        self.stream.on_log(
            LogEvent(record.task_id, record.func_name, message, level, entry.timestamp, 0, {}, extra, seq=entry.seq)
        )


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing, as those of a backend in memory."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it waits")


async def send_report() -> None:
    """Do nothing."""


def _any_arguments() -> Any:
    async def run(*args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    return run
