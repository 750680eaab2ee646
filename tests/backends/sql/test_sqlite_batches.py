"""A batch of SQLite in one call: all of it or nothing, in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine
from sqlalchemy.dialects import sqlite

from taskflow_otel.backends import SqliteBackend
from taskflow_otel.backends.base import AppendLogs, Applied, Insert, Outcome, Update
from taskflow_otel.backends.sql.batch import Batch, UnexpectedRowCount
from taskflow_otel.backends.sql.dialects import SqliteDialect
from taskflow_otel.backends.sql.schema import metadata
from taskflow_otel.backends.sql.sqlite_batches import WholeBatch
from taskflow_otel.backends.sql.statements import Statements
from taskflow_otel.compat.aiosqlite import ScriptConnection
from taskflow_otel.model.record import LogEntry, TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.testing.backends.samples import BASE, finish, make_task

APPLIED = Applied(Outcome.APPLIED)


def started(record: TaskRecord) -> TaskRecord:
    record = record.copy()
    record.status, record.start_time = TaskStatus.RUNNING, BASE
    return record


async def test_a_batch_of_sqlite_is_applied_whole_or_not_at_all(backend: SqliteBackend) -> None:
    one, other = make_task(), make_task(instance="two")
    await backend.apply([Insert(one), Insert(other)])
    stale = started(other)
    stale.token = 2
    log = AppendLogs(one.task_id, (LogEntry(0, BASE, "info", "hello", 0, {}),))
    gone = AppendLogs("gone", (LogEntry(0, BASE, "info", "hello", 0, {}),))
    assert await backend.apply([Update(started(one)), Update(stale), log, gone]) == [
        APPLIED,
        Applied(Outcome.STALE),
        APPLIED,
        APPLIED,
    ]
    assert await backend.get(one.task_id) == started(one)
    assert await backend.get(other.task_id) == other
    assert (await backend.logs(one.task_id), await backend.logs("gone")) == (list(log.entries), [])
    assert backend.connections_in_use() == 0


@pytest.fixture
def statements() -> Statements:
    return Statements(sqlite.dialect(), SqliteDialect())


@pytest.fixture
def connection() -> Iterator[ScriptConnection]:
    """A database in memory with the tables."""
    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(":memory:", factory=ScriptConnection))
    metadata.create_all(engine)
    raw = engine.raw_connection()
    assert isinstance(raw.driver_connection, ScriptConnection)
    yield raw.driver_connection
    raw.close()
    engine.dispose()


def rows_of(connection: ScriptConnection, table: str) -> int:
    (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(count)


def test_rows_logs_and_counts_are_written_in_one_call(connection: ScriptConnection, statements: Statements) -> None:
    task = finish(make_task())
    log = AppendLogs(task.task_id, (LogEntry(0, BASE, "info", "hello", 0, {}),))
    connection.executescript(WholeBatch(Batch(statements, [Insert(task), log]), statements, 0))
    assert not connection.in_transaction
    assert (rows_of(connection, "taskflow_tasks"), rows_of(connection, "taskflow_task_logs")) == (1, 1)
    assert rows_of(connection, "taskflow_finished_counts") == 1


def test_a_change_that_hits_no_row_undoes_all_the_others(connection: ScriptConnection, statements: Statements) -> None:
    batch = Batch(statements, [Insert(make_task()), Update(started(make_task()))])
    with pytest.raises(UnexpectedRowCount):
        connection.executescript(WholeBatch(batch, statements, 0))
    assert not connection.in_transaction
    assert rows_of(connection, "taskflow_tasks") == 0


def test_an_error_of_sqlite_undoes_all_the_others(connection: ScriptConnection, statements: Statements) -> None:
    connection.execute("DROP TABLE taskflow_task_logs")
    task = make_task()
    log = AppendLogs(task.task_id, (LogEntry(0, BASE, "info", "hello", 0, {}),))
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        connection.executescript(WholeBatch(Batch(statements, [Insert(task), log]), statements, 0))
    assert rows_of(connection, "taskflow_tasks") == 0


def test_a_script_is_still_a_script(connection: ScriptConnection) -> None:
    connection.executescript("CREATE TABLE one (a); CREATE TABLE other (a);")
    assert rows_of(connection, "one") == rows_of(connection, "other") == 0
