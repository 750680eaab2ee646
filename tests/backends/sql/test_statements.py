"""The statements of a first attempt write less than a row, and leave it as the whole row would have been."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Dialect as EngineDialect

from taskflow_otel.backends import SqliteBackend
from taskflow_otel.backends.base import Applied, Insert, Outcome, Update
from taskflow_otel.backends.sql.dialects import Dialect, MySQLDialect, PostgresDialect, SqliteDialect
from taskflow_otel.backends.sql.schema import tasks
from taskflow_otel.backends.sql.statements import Statements
from taskflow_otel.model.plain import plain_text
from taskflow_otel.model.record import Progress, TaskRecord, TimelineEntry
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.trace import SpanRef
from taskflow_otel.testing.backends.samples import BASE, make_task

APPLIED = Applied(Outcome.APPLIED)
NOT_FIRST = {
    "attempt": 1,
    "retries_used": 1,
    "crashes": 1,
    "logs_dropped": 1,
    "progress": Progress(1, 2),
    "error": "error",
    "error_type": "ValueError",
    "stacktrace": "stack",
    "reason": "cancelled",
}


def started(record: TaskRecord) -> TaskRecord:
    record = record.copy()
    record.status, record.start_time, record.reason = TaskStatus.RUNNING, BASE + timedelta(seconds=1), None
    record.timeline += (TimelineEntry(Transition.STARTED, record.start_time, record.attempt, record.instance),)
    return record


def succeeded(record: TaskRecord) -> TaskRecord:
    record = record.copy()
    record.status, record.end_time, record.duration = TaskStatus.SUCCESS, BASE + timedelta(seconds=3), 2.0
    record.timeline += (TimelineEntry(Transition.SUCCEEDED, record.end_time, record.attempt, record.instance),)
    return record


@pytest.fixture
def statements() -> Statements:
    return Statements(sqlite.dialect(), SqliteDialect())


def test_a_task_that_is_new_starts_and_succeeds_takes_the_narrow_statements(statements: Statements) -> None:
    new = make_task()
    assert statements.inserted(new, 0)[0] == statements.insert_new_task
    assert statements.updated(started(new), 0)[0] == statements.start_task
    assert statements.updated(succeeded(started(new)), 0)[0] == statements.succeed_task


@pytest.mark.parametrize("name", NOT_FIRST)
def test_a_task_with_a_past_takes_the_whole_row(statements: Statements, name: str) -> None:
    record = make_task()
    setattr(record, name, NOT_FIRST[name])
    again = started(record)
    setattr(again, name, NOT_FIRST[name])
    assert statements.inserted(record, 0)[0] == statements.insert_task
    assert statements.updated(again, 0)[0] == statements.update_task
    assert statements.updated(succeeded(again), 0)[0] == statements.update_task


@pytest.mark.parametrize("status", [status for status in TaskStatus if status not in ("running", "success")])
def test_every_other_state_takes_the_whole_row(statements: Statements, status: TaskStatus) -> None:
    record = succeeded(started(make_task()))
    record.status = status
    assert statements.updated(record, 0)[0] == statements.update_task


@pytest.mark.parametrize(
    ("engine", "dialect"),
    [
        (sqlite.dialect(), SqliteDialect()),
        (postgresql.psycopg.dialect(paramstyle="format"), PostgresDialect()),
        (mysql.aiomysql.dialect(paramstyle="format"), MySQLDialect()),
    ],
    ids=["sqlite", "postgres", "mysql"],
)
def test_each_row_has_a_value_for_each_parameter(engine: EngineDialect, dialect: Dialect) -> None:
    statements = Statements(engine, dialect)
    mark = "?" if engine.name == "sqlite" else "%s"
    new = make_task(tags={"a": "b"})
    late = make_task(run_at=BASE)
    for statement, row in (
        statements.inserted(new, 0),
        statements.inserted(late, 0),
        statements.updated(started(new), 0),
        statements.updated(succeeded(started(new)), 0),
        statements.updated(new, 0),
    ):
        assert statement.count(mark) == len(row), statement


# What a caller says is made plain before it reaches a backend.
texts = st.text(max_size=5).map(plain_text)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    tags=st.dictionaries(texts, texts, max_size=2),
    payload=st.none() | texts.map(ascii),
    priority=st.integers(-5, 5),
    traced=st.booleans(),
    past=st.sampled_from([None, *NOT_FIRST]),
    until=st.sampled_from([0, 1, 2]),
)
async def test_the_row_is_that_of_the_record_after_each_change(
    backend: SqliteBackend,
    tags: dict[str, str],
    payload: str | None,
    priority: int,
    traced: bool,
    past: str | None,
    until: int,
) -> None:
    record = make_task(tags=tags, payload=payload, priority=priority)
    if traced:
        record.trace.creation = SpanRef("1" * 32, "1" * 16, 1)
    if past is not None:
        setattr(record, past, NOT_FIRST[past])
    stages = [record, started(record), succeeded(started(record))][: until + 1]
    if traced and until:
        stages[-1].trace.attempt = SpanRef("1" * 32, "2" * 16, 1)
    changes: list[Insert | Update] = [Insert(stages[0]), *map(Update, stages[1:])]
    for change in changes:
        assert await backend.apply([change]) == [APPLIED]
        assert await backend.get(record.task_id) == change.record
    # The columns of which a record is not made.
    row = (
        await backend._read(
            select(tasks.c.live_owner, tasks.c.finished_at, tasks.c.trace_id, tasks.c.active_key).where(
                tasks.c.task_id == record.task_id
            )
        )
    )[0]
    last = stages[-1]
    assert (row[0] is None, row[1] is None) == (last.status.finished, not last.status.finished)
    assert row[2:] == (last.trace_id, None)
