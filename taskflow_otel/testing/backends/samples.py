"""Tasks, instances and queries to test backends with."""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from msgspec.structs import replace

from taskflow_otel.model.failure import AttemptFailure
from taskflow_otel.model.ids import new_task_id
from taskflow_otel.model.query import Instance, TaskQuery
from taskflow_otel.model.record import Progress, TaskRecord, TimelineEntry
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.trace import SpanRef, TaskTrace
from taskflow_otel.model.vocabulary import ExecutorKind, Source

BASE = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
TEXT = "naïve “quoted” \\ 100% _under_ 日本語 🎉 \n\t end"
_clock = count(1)


def make_task(**fields: Any) -> TaskRecord:
    """A pending, persisted task of the instance `one`; each is created a second after the previous one."""
    created = BASE + timedelta(seconds=next(_clock))
    defaults: dict[str, Any] = {
        "task_id": new_task_id(),
        "func_name": "send",
        "status": TaskStatus.PENDING,
        "created_at": created,
        "instance": "one",
        "persisted": True,
        "payload": '{"v":1}',
        "timeline": (TimelineEntry(Transition.ENQUEUED, created, 0, "one"),),
    }
    return TaskRecord(**{**defaults, **fields})


def finish(task: TaskRecord, status: TaskStatus = TaskStatus.SUCCESS, seconds: float = 1.5) -> TaskRecord:
    """The task after a run of `seconds`."""
    task = task.copy()
    task.status, task.duration = status, seconds
    task.start_time = task.created_at + timedelta(seconds=1)
    task.end_time = task.start_time + timedelta(seconds=seconds)
    return task


def full_task() -> TaskRecord:
    """A task with a value in every field that a backend stores."""
    span = SpanRef("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", 1, "vendor=1")
    task = make_task(
        func_name="send ✉",
        run_at=BASE + timedelta(minutes=5, microseconds=1),
        start_time=BASE + timedelta(minutes=6),
        attempt=3,
        retries_used=2,
        duration=0.1 + 0.2,
        error=TEXT,
        error_type="builtins.ValueError",
        stacktrace=TEXT * 100,
        tags={"tenant": TEXT, 'a"b': "", "": "x"},
        idempotency_key=TEXT + "x" * 1_000,
        source=Source.SCHEDULED.value,
        priority=-7,
        executor=ExecutorKind.THREAD.value,
        queue="mails 🎉",
        progress=Progress(0.5, 3.0, TEXT),
        reason=TEXT,
        retry_of=new_task_id(),
        logs_dropped=4,
        failures=(
            AttemptFailure(2, "0123456789abcdef", "KeyError", TEXT, ("app.py:1 in f", TEXT), BASE),
            AttemptFailure(3, None),
        ),
        payload='{"v":1,"args":["ü","🎉"]}',
        crashes=1,
        token=2**40,
        trace=TaskTrace(span, SpanRef("1" * 32, "2" * 16), SpanRef("3" * 32, "4" * 16, 1, "b=2"), "k=v"),
    )
    first = replace(task.timeline[0], due_at=BASE + timedelta(hours=1, microseconds=1))
    task.timeline = (first, TimelineEntry(Transition.STARTED, BASE + timedelta(minutes=6), 3, "one", TEXT))
    return task


def make_instance(instance_id: str, **fields: Any) -> Instance:
    """An instance that is alive."""
    defaults: dict[str, Any] = {
        "host": "host/🎉",
        "pid": 2**22,
        "process_started": "12345.6",
        "started_at": BASE,
        "heartbeat_at": BASE,
        "lease_seconds": 7.5,
    }
    return Instance(**{"instance_id": instance_id, **defaults, **fields})


def ids(records: Iterable[TaskRecord]) -> list[str]:
    """The ids of the tasks."""
    return [record.task_id for record in records]


def population() -> list[TaskRecord]:
    """Sixty tasks, oldest first, that differ in all attributes of a query; always the same ones."""
    draw = random.Random(20260301)  # nosec B311  # the same sample each time
    return [
        make_task(
            func_name=draw.choice(["send_email", "send_sms", "resize%image"]),
            status=draw.choice(sorted(TaskStatus)),
            queue=draw.choice(["default", "mails"]),
            source=draw.choice([source.value for source in Source]),
            tags=draw.choice([{}, {"tenant": "a"}, {"tenant": "b", 'q"x': "a"}, {"tenant": "a ", "n": TEXT}]),
            error=draw.choice([None, None, TEXT, "timed out after 5 s"]),
            trace=TaskTrace(SpanRef(draw.choice("abc") * 32, "1" * 16)),
            failures=draw.choice(
                [(), (AttemptFailure(0, "a" * 16),), (AttemptFailure(0, "b" * 16), AttemptFailure(1, None))]
            ),
            error_type=(None, "TaskTimeoutError", "OrderError")[number % 3],
            duration=(number % 8) / 4,
            end_time=BASE + timedelta(days=1, minutes=-number),
        )
        for number in range(60)
    ]


def queries(tasks: list[TaskRecord]) -> list[TaskQuery]:
    """Each condition alone, and some combinations."""
    early, late = tasks[10].created_at, tasks[40].created_at
    conditions: list[dict[str, Any]] = [
        {},
        *({"status": status} for status in TaskStatus),
        {"func_name": "send_sms"},
        {"func_name": "nothing"},
        {"queue": "mails"},
        {"source": Source.RETRY.value},
        {"tag": ("tenant", "a")},
        {"tag": ("tenant", None)},
        {"tag": ("n", TEXT)},
        {"tag": ("x", "a")},
        {"since": early},
        {"until": late},
        {"since": early, "until": late},
        {"ended_since": tasks[20].end_time},
        {"ended_until": tasks[20].end_time},
        {"ended_since": tasks[50].end_time, "ended_until": tasks[10].end_time, "status": TaskStatus.FAILED},
        {"ended_since": tasks[30].end_time, "func_name": "send_sms", "since": early},
        {"trace_id": "a" * 32},
        {"fingerprint": "a" * 16},
        {"fingerprint": "b" * 16},
        {"fingerprint": "a" * 16, "status": TaskStatus.FAILED, "since": early},
        {"fingerprint": "a" * 16, "trace_id": "a" * 32},
        {"q": "send_"},
        {"q": "%"},
        {"q": "日本語 🎉"},
        {"q": tasks[5].task_id},
        {"q": "timed out", "status": TaskStatus.FAILED},
        {"error": "TIMED"},
        {"error": "error", "func_name": "send_sms"},
        {"func_name_prefix": "Send_"},
        {"func_name_prefix": "end"},
        {"func_name_prefix": "send%", "status": TaskStatus.FAILED},
        {"min_duration": 1.0},
        {"max_duration": 1.0, "queue": "mails"},
        {"min_duration": 0.5, "max_duration": 2.0},
        {"func_name": "send_email", "status": TaskStatus.SUCCESS, "queue": "default"},
        {"tag": ("tenant", "a"), "since": early, "status": TaskStatus.SUCCESS},
        {"trace_id": "b" * 32, "source": Source.MANUAL.value, "until": late},
    ]
    return [TaskQuery(**condition) for condition in conditions]


def matches(task: TaskRecord, query: TaskQuery) -> bool:
    """Whether a task matches the query: the simple reference implementation for comparison with backends."""
    equal = ("status", "func_name", "queue", "source", "trace_id", "fingerprint")
    if any(getattr(query, name) not in (None, getattr(task, name)) for name in equal):
        return False
    if query.tag is not None:
        name, value = query.tag
        if name not in task.tags or value not in (None, task.tags[name]):
            return False
    if query.since is not None and task.created_at < query.since:
        return False
    if query.until is not None and task.created_at >= query.until:
        return False
    ended = task.end_time or task.created_at
    if query.ended_since is not None and not (task.status.finished and ended >= query.ended_since):
        return False
    if query.ended_until is not None and not (task.status.finished and ended < query.ended_until):
        return False
    duration = task.duration if task.status.finished else None
    if query.min_duration is not None and (duration is None or duration < query.min_duration):
        return False
    if query.max_duration is not None and (duration is None or duration >= query.max_duration):
        return False
    if query.func_name_prefix is not None and not task.func_name.lower().startswith(query.func_name_prefix.lower()):
        return False
    if query.error is not None and query.error.lower() not in f"{task.error_type or ''}\n{task.error or ''}".lower():
        return False
    return query.q is None or any(query.q in text for text in (task.func_name, task.error or "", task.task_id))
