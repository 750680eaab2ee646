"""The statements of the hot path, compiled once, and their rows.

A row is made from a record only. Most tasks are inserted, start once and succeed. Most columns of such a task keep
their first value, so these three statements write only the other columns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import ClauseElement, ColumnElement, Table, bindparam, exists, null, or_, select, update
from sqlalchemy.engine import Dialect as EngineDialect

from taskflow_otel.backends.base import AppendSpans, Insert
from taskflow_otel.backends.sql.dialects import Dialect, Row
from taskflow_otel.backends.sql.mapping import (
    DERIVED,
    STORED,
    micros,
    row_maker,
    tags_out,
    timeline_out,
    trace_out,
)
from taskflow_otel.backends.sql.names import unnamed
from taskflow_otel.backends.sql.schema import (
    figures,
    finished_counts,
    instances,
    task_logs,
    task_spans,
    task_tags,
    tasks,
    used_once,
)
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus

COUNTED = ("tasks", "timed", "duration_micros")
ADDED = ("tasks", "micros")
_MUTABLE = [field for field in STORED if field.mutable]
_WRITTEN = [*(field.name for field in (*_MUTABLE, *DERIVED)), "updated_at"]
_MATCHED = ["task_id", "instance", "token"]

_insert_row = row_maker(STORED)
_update_row = row_maker(_MUTABLE)

# Columns that a first attempt never changes: they still have their inserted values. Each of them only grows, or is set
# when another of them grows.
_LATER = {
    "attempt": 0,
    "retries_used": 0,
    "crashes": 0,
    "logs_dropped": 0,
    "progress": None,
    "error": None,
    "error_type": None,
    "stacktrace": None,
    "duplicate_of": None,
    "reason": None,
    "failures": (),
}
_NOT_NEW = _LATER | {
    "cancel_requested": False,
    "run_at": None,
    "start_time": None,
    "end_time": None,
    "duration": None,
    "idempotency_key": None,
    "retry_of": None,
    "retried_by": None,
}
_later, _untouched = attrgetter(*_LATER), tuple(_LATER.values())
_not_new, _pristine = attrgetter(*_NOT_NEW), tuple(_NOT_NEW.values())
_PENDING, _RUNNING, _SUCCESS = TaskStatus.PENDING, TaskStatus.RUNNING, TaskStatus.SUCCESS
_NEW, _STARTED, _SUCCEEDED = _PENDING.value, _RUNNING.value, _SUCCESS.value

_OMITTED = {name for name, value in _NOT_NEW.items() if value is None} | {
    "active_key",
    "finished_at",
    "failures",
    "fingerprint",
}
_NEW_COLUMNS = [column.name for column in tasks.columns if column.name not in _OMITTED]
# All lists follow the order of the table, which is the order of the parameters of a compiled statement.
_STARTED_COLUMNS = ["status", "start_time", "timeline", "trace", "trace_id", "updated_at"]
_SUCCEEDED_COLUMNS = [
    "duration", "status", "start_time", "end_time", "timeline", "trace", "trace_id", "finished_at", "updated_at",
]  # fmt: skip


def now_micros() -> int:
    """The machine's time in microseconds since 1970; other instances write the same."""
    return time.time_ns() // 1_000


class Statements:
    """The statements of one database, and its form of their rows."""

    def __init__(self, engine_dialect: EngineDialect, dialect: Dialect, named: Callable[[str], str] = unnamed) -> None:
        def text(statement: ClauseElement, columns: Sequence[str] | None = None) -> str:
            return named(str(statement.compile(dialect=engine_dialect, column_keys=columns)))

        def values(table: Table, prefix: str, names: Iterable[str]) -> dict[str, ColumnElement[Any]]:
            parameters = {name: bindparam(prefix + name, type_=table.c[name].type) for name in names}
            return {n: dialect.nullable(p) if table.c[n].nullable else p for n, p in parameters.items()}

        def insert_text(table: Table, names: Sequence[str] | None = None) -> str:
            return text(dialect.insert_ignore(table).values(values(table, "", names or table.c.keys())))

        def update_text(names: Sequence[str], *emptied: str) -> str:
            return text(
                update(tasks)
                .where(
                    *(tasks.c[name] == bindparam(f"match_{name}") for name in _MATCHED),
                    tasks.c.finished_at.is_(None),
                )
                .values(values(tasks, "new_", names) | {name: null() for name in emptied})
            )

        self.bindable: Callable[[Row], Row] = dialect.bindable
        self._null = dialect.null
        self.insert_task: str = insert_text(tasks)
        self.insert_new_task: str = insert_text(tasks, _NEW_COLUMNS)
        self.update_task: str = update_text(_WRITTEN)
        self.start_task: str = update_text(_STARTED_COLUMNS, "reason")
        self.succeed_task: str = update_text(_SUCCEEDED_COLUMNS, "reason", "live_owner")
        self.insert_log: str = insert_text(task_logs)
        self.insert_log_of_stored: str = text(
            dialect.insert_ignore(task_logs).from_select(
                task_logs.c.keys(),
                select(*values(task_logs, "", task_logs.c.keys()).values()).where(
                    exists().where(tasks.c.task_id == bindparam("of_task"))
                ),
            )
        )
        """Its row is that of `insert_log`, followed by the task id once more."""
        self.insert_spans: str = insert_text(task_spans)
        self.insert_spans_of_owner: str = text(
            dialect.insert_ignore(task_spans).from_select(
                task_spans.c.keys(),
                select(*values(task_spans, "", task_spans.c.keys()).values()).where(
                    exists().where(*(tasks.c[name] == bindparam(f"of_{name}") for name in _MATCHED))
                ),
            )
        )
        """Its row is that of `insert_spans`, followed by the id, the owner and the token of the task."""
        self.insert_tag: str = insert_text(task_tags)
        self.lock_state: str = text(
            select(instances.c.state)
            .where(instances.c.instance_id == bindparam("owner"))
            .with_for_update(read=True, key_share=True)
        )
        """The state of an instance, which cannot be declared dead before the end of the transaction."""
        self.use_name: str = insert_text(used_once)
        self.add_counts: str = text(
            dialect.insert_or_add(finished_counts, COUNTED), [column.name for column in finished_counts.columns]
        )
        self.add_figures: str = text(dialect.insert_or_add(figures, ADDED), [column.name for column in figures.columns])
        self.link_retry: str = text(
            update(tasks)
            .where(
                tasks.c.task_id == bindparam("original"),
                or_(
                    tasks.c.retried_by.is_(None),
                    tasks.c.retried_by == bindparam("seen"),
                    tasks.c.retried_by == bindparam("same"),
                ),
            )
            .values(retried_by=bindparam("retry"), updated_at=bindparam("now"))
        )

    def inserted(self, record: TaskRecord, now: int) -> tuple[str, Row]:
        """The statement that inserts a record, and its row."""
        if record.status is _PENDING and _not_new(record) == _pristine:
            return self.insert_new_task, _new_row(record, now, self._null)
        return self.insert_task, self.whole_insert(record, now)

    def updated(self, record: TaskRecord, now: int) -> tuple[str, Row]:
        """The statement that writes the possible changes of a record, and its row."""
        if _later(record) == _untouched:
            started, ended = record.start_time, record.end_time
            if record.status is _SUCCESS and started and ended and record.duration is not None:
                return self.succeed_task, _succeeded_row(record, started, ended, now, self._null)
            if record.status is _RUNNING and started and not ended and record.duration is None:
                return self.start_task, _started_row(record, started, now, self._null)
        return self.update_task, self.whole_update(record, now)

    def whole_insert(self, record: TaskRecord, now: int) -> Row:
        """The row of `insert_task`."""
        return self.bindable((*_insert_row(record), now))

    def whole_update(self, record: TaskRecord, now: int) -> Row:
        """The row of `update_task`."""
        return self.bindable((*_update_row(record), now, record.task_id, record.instance, record.token))


def span_row(change: AppendSpans) -> Row:
    """The row of `insert_spans`."""
    return (change.task_id, change.attempt, change.text)


def owned_span_row(change: AppendSpans) -> Row:
    """The row of `insert_spans_of_owner`."""
    return (*span_row(change), change.task_id, change.instance, change.token)


def link_row(change: Insert, now: int) -> Row:
    """The row of `link_retry`."""
    record, seen = change.record, None if change.link is None else change.link.seen
    return (record.task_id, now, record.retry_of, seen or "", record.task_id)


def _new_row(record: TaskRecord, now: int, null: Any) -> Row:
    # In the order of `_NEW_COLUMNS`, and in the form for its statement: only two of the values can be null.
    return (
        record.task_id,
        record.func_name,
        record.source,
        record.priority,
        record.executor,
        record.queue,
        record.instance,
        record.token,
        0,
        0,
        0,
        0,
        micros(record.created_at),
        int(record.persisted),
        0,
        _NEW,
        tags_out(record.tags),
        timeline_out(record.timeline),
        trace_out(record.trace),
        null if record.payload is None else record.payload,
        _trace_id(record, null),
        record.instance,
        now,
    )


def _started_row(record: TaskRecord, started: datetime, now: int, null: Any) -> Row:
    return (
        _STARTED,
        micros(started),
        timeline_out(record.timeline),
        trace_out(record.trace),
        _trace_id(record, null),
        now,
        record.task_id,
        record.instance,
        record.token,
    )


def _trace_id(record: TaskRecord, null: Any) -> Any:
    # `TaskRecord.trace_id` without the call of a property.
    trace = record.trace
    return (trace.attempt or trace.creation).trace_id or null


def _succeeded_row(record: TaskRecord, started: datetime, ended: datetime, now: int, null: Any) -> Row:
    end = micros(ended)
    return (
        record.duration,
        _SUCCEEDED,
        micros(started),
        end,
        timeline_out(record.timeline),
        trace_out(record.trace),
        _trace_id(record, null),
        end,
        now,
        record.task_id,
        record.instance,
        record.token,
    )
