"""An engine that only remembers: real records and the real stream, without anything that runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import EllipsisType
from typing import Any

from taskflow_otel.errors import TaskflowError, TaskNotFoundError, TaskStateError, UnknownScheduleError
from taskflow_otel.exporters.stream import LiveStream
from taskflow_otel.model.events import LogEvent
from taskflow_otel.model.ids import new_task_id
from taskflow_otel.model.query import Instance, TaskCounts, TaskPage, TaskQuery
from taskflow_otel.model.record import LogEntry, TaskRecord, TimelineEntry
from taskflow_otel.model.schedule import ScheduledRun, ScheduleStatus
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.trace import SpanRef, TaskTrace
from taskflow_otel.model.vocabulary import EngineState

INSTANCE = "web-1-7f3a"
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
    record.timeline = timeline
    for name, value in fields.items():
        setattr(record, name, value)
    return record


def has_tag(record: TaskRecord, key: str, value: str | None) -> bool:
    return key in record.tags and value in {None, record.tags[key]}


@dataclass(slots=True)
class FakeQueue:
    """The figures of a queue."""

    name: str
    concurrency: int | None = None
    max_size: int | None = None
    running: int = 0
    ready: int = 0
    delayed: int = 0
    paused: bool = False
    oldest_ready_age: float = 0.0


class FakeQueues(dict[str, FakeQueue]):
    """Queues that do nothing."""

    def stats(self) -> Mapping[str, FakeQueue]:
        return {name: replace(queue) for name, queue in self.items()}

    async def update(  # type: ignore[override]  # not that of a dict
        self, name: str, *, concurrency: int | EllipsisType | None = ..., max_size: int | EllipsisType | None = ...
    ) -> None:
        for field, value in (("concurrency", concurrency), ("max_size", max_size)):
            if value is not ...:
                setattr(self[name], field, value)

    async def pause(self, name: str) -> None:
        self[name].paused = True

    async def resume(self, name: str) -> None:
        self[name].paused = False


class FakeSchedules:
    """Schedules that stand still until someone asks."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.recurring: dict[str, ScheduleStatus] = {}
        self.once: list[ScheduledRun] = []

    def add(self, name: str, **fields: Any) -> None:
        defaults: dict[str, Any] = {
            "func_name": "send_report",
            "rule": "every 60 s",
            "timezone": "UTC",
            "next_run": datetime.now(UTC) + timedelta(seconds=45),
            "last_run": None,
            "last_task_id": None,
            "paused": False,
            "catch_up": "skip",
            "overlap": "allow",
            "missed": 0,
            "errors": 0,
            "last_error": None,
        }
        self.recurring[name] = ScheduleStatus(**{"name": name, **defaults, **fields})

    def statuses(self) -> list[ScheduleStatus]:
        return list(self.recurring.values())

    async def planned(self) -> list[ScheduledRun]:
        return self.once

    async def run(self, name: str) -> TaskRecord:
        record = make_record(self._known(name).func_name, TaskStatus.PENDING, age=0, tags={"schedule": name})
        return self.engine.put(record).copy()

    async def pause(self, name: str) -> ScheduleStatus:
        self.recurring[name] = replace(self._known(name), paused=True, next_run=None)
        return self.recurring[name]

    async def resume(self, name: str) -> ScheduleStatus:
        self.recurring[name] = replace(self._known(name), paused=False)
        return self.recurring[name]

    def _known(self, name: str) -> ScheduleStatus:
        if name not in self.recurring:
            raise UnknownScheduleError(name)
        return self.recurring[name]


class FakeEngine:
    """Keeps records and tells the stream of every change."""

    def __init__(self) -> None:
        self.records: dict[str, TaskRecord] = {}
        self.log_entries: dict[str, list[LogEntry]] = {}
        self.queues = FakeQueues(
            default=FakeQueue("default", concurrency=8), mail=FakeQueue("mail", concurrency=2, max_size=50)
        )
        self.lookup = self.control = self.retries = self.cleaner = self.vitals = self
        self.schedules = FakeSchedules(self)
        self.stream = LiveStream()
        self.state = EngineState.RUNNING
        self.backend_failing = False
        self.instance_id = INSTANCE
        self.failure: Exception | None = None
        self.queries: list[TaskQuery] = []
        self.search_window = 5_000

    def put(self, record: TaskRecord) -> TaskRecord:
        self.records[record.task_id] = record
        self.stream.inject(record.copy())
        return record

    def log(self, record: TaskRecord, message: str, level: str = "info", **extra: Any) -> None:
        entries = self.log_entries.setdefault(record.task_id, [])
        entry = LogEntry(len(entries), datetime.now(UTC), level, message, record.attempt, extra)
        entries.append(entry)
        self.stream.on_log(
            LogEvent(record.task_id, record.func_name, message, level, entry.timestamp, 0, {}, extra, seq=entry.seq)
        )

    async def get(self, task_id: str) -> TaskRecord:
        self._fail()
        if task_id not in self.records:
            raise TaskNotFoundError(task_id)
        return self.records[task_id].copy()

    async def logs(self, task_id: str) -> list[LogEntry]:
        return list(self.log_entries.get(task_id, []))

    def _matching(self, query: TaskQuery) -> list[TaskRecord]:
        self._fail()
        self.queries.append(query)
        return [
            record
            for record in sorted(self.records.values(), key=lambda record: record.task_id, reverse=True)
            if (query.status is None or record.status is query.status)
            and (query.func_name is None or record.func_name == query.func_name)
            and (query.queue is None or record.queue == query.queue)
            and (query.source is None or record.source == query.source)
            and (query.since is None or record.created_at >= query.since)
            and (query.until is None or record.created_at < query.until)
            and (query.trace_id is None or record.trace_id == query.trace_id)
            and (query.tag is None or has_tag(record, *query.tag))
            and (query.q is None or query.q in f"{record.func_name} {record.error} {record.task_id}")
        ]

    async def page(self, query: TaskQuery) -> TaskPage:
        if query.q is not None:
            return self._searched(query)
        matching = self._matching(query)
        found = [record for record in matching if query.cursor is None or record.task_id < query.cursor]
        shown = [record.copy() for record in found[: query.limit]]
        limit = len(matching) + 1 if query.count_limit is None else query.count_limit
        next_cursor = shown[-1].task_id if len(found) > len(shown) else None
        return TaskPage(shown, next_cursor, min(len(matching), limit), len(matching) < limit)

    def _searched(self, query: TaskQuery) -> TaskPage:
        """One page of a search, which ends with the number of tasks that are looked at."""
        walk = [
            record
            for record in self._matching(replace(query, q=None))
            if query.cursor is None or record.task_id < query.cursor
        ]
        window = walk[: self.search_window]
        found = {record.task_id for record in self._matching(query)}
        shown = [record.copy() for record in window if record.task_id in found]
        complete = len(window) == len(walk)
        return TaskPage(shown, None if complete else window[-1].task_id, len(shown), complete)

    async def counts(self, query: TaskQuery) -> TaskCounts:
        if query.q is not None:
            page = self._searched(query)
            found, exact = page.records, page.total_exact
        else:
            found = self._matching(query)[: query.count_limit]
            exact = len(found) != query.count_limit
        durations = [record.duration for record in found if record.duration is not None]
        by_status = {status: sum(record.status is status for record in found) for status in TaskStatus}
        return TaskCounts(by_status, sum(durations), len(durations), exact)

    async def cancel(self, task_id: str) -> TaskRecord:
        record = self.records.get(task_id)
        if record is None:
            raise TaskNotFoundError(task_id)
        if record.status.finished:
            raise TaskStateError(f"the task is {record.status}; only a pending or running task can be cancelled")
        record.status, record.reason, record.end_time = TaskStatus.CANCELLED, "cancelled", datetime.now(UTC)
        record.timeline.append(TimelineEntry(Transition.CANCELLED, record.end_time, record.attempt, INSTANCE))
        return self.put(record).copy()

    async def retry(self, task_id: str, *, rerun: bool = False) -> TaskRecord:
        record = self.records.get(task_id)
        if record is None:
            raise TaskNotFoundError(task_id)
        if not record.status.finished:
            raise TaskStateError(f"the task is {record.status}; only a finished task can be retried")
        twin = make_record(record.func_name, TaskStatus.PENDING, age=0, retry_of=task_id, source="retry")
        record.retried_by = twin.task_id
        return self.put(twin).copy()

    async def retry_all(self, task_ids: Iterable[str]) -> dict[str, TaskRecord | TaskflowError]:
        results: dict[str, TaskRecord | TaskflowError] = {}
        for task_id in task_ids:
            try:
                results[task_id] = await self.retry(task_id)
            except TaskflowError as exc:
                results[task_id] = exc
        return results

    async def delete(self, before: datetime) -> int:
        gone = [record.task_id for record in self.records.values() if record.end_time and record.end_time < before]
        for task_id in gone:
            del self.records[task_id]
        return len(gone)

    async def instances(self) -> list[Instance]:
        self._fail()
        now = datetime.now(UTC)
        return [Instance(INSTANCE, "host/4026531836", 4711, "1", now - timedelta(hours=3), now, 10.0)]

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


class FakeMetrics:
    """A metrics page of one line."""

    async def refresh(self) -> None:
        """There is nobody else."""

    def render(self, accept: str) -> tuple[bytes, str]:
        return b"taskflow_up 1\n", "text/plain; version=0.0.4; charset=utf-8"


class FakeManager:
    """What TaskAdmin asks of a manager."""

    def __init__(self, engine: FakeEngine | None = None) -> None:
        self.engine = engine or FakeEngine()
        self.metrics_page = FakeMetrics()
        self.stream = self.engine.stream
        self.mounted_on: list[Any] = []
        self.installed_on: list[Any] = []

    def init_app(self, app: Any) -> None:
        self.mounted_on.append(app)

    def install(self, app: Any) -> None:
        self.installed_on.append(app)
