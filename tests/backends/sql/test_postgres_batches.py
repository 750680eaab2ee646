"""A batch of PostgreSQL as arrays: the same rows as one by one, found by the primary key, in one flight."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from taskflow_otel.backends import PostgresBackend
from taskflow_otel.backends.base import AppendLogs, Applied, Change, Insert, Outcome, Update
from taskflow_otel.backends.sql.backend import SqlBackend
from taskflow_otel.backends.sql.batch import Batch, UnexpectedRowCount
from taskflow_otel.backends.sql.postgres_batches import arrays, execute, of_arrays
from taskflow_otel.backends.sql.postgres_batches import settings as settings_of
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.record import LogEntry, TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.testing.backends.samples import BASE, finish, make_task
from tests.backends.sql.flights import Broken, Waits

APPLIED = Applied(Outcome.APPLIED)
_CELL = st.tuples(
    st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\x00")),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.floats(allow_nan=False),
)


def started(record: TaskRecord) -> TaskRecord:
    record = record.copy()
    record.status, record.start_time = TaskStatus.RUNNING, BASE
    return record


def test_an_insert_and_an_update_take_one_array_for_each_column() -> None:
    insert, types = of_arrays("INSERT INTO t (a, b) VALUES (%s::VARCHAR, %s) ON CONFLICT DO NOTHING")
    assert insert == (
        "INSERT INTO t (a, b) SELECT given.c0, given.c1 "
        "FROM unnest(%s::VARCHAR[], %s::DOUBLE PRECISION[]) AS given(c0, c1) ON CONFLICT DO NOTHING"
    )
    assert types == ("VARCHAR", "DOUBLE PRECISION")
    update, _ = of_arrays("UPDATE t SET a=%s::BIGINT, b=NULL WHERE t.id = %s::VARCHAR AND t.c IS NULL")
    assert update == (
        "UPDATE t SET a=given.c0, b=NULL FROM unnest(%s::BIGINT[], %s::VARCHAR[]) AS given(c0, c1) "
        "WHERE t.id = given.c1 AND t.c IS NULL"
    )


@pytest.fixture
def connection(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_url) as connection:
        yield connection


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(_CELL, min_size=1, max_size=5))
@example(rows=[('{"a\\b",NULL}', 0, 0.1), ("NULL", -1, float("inf")), ("", None, None), ("\n\t \\", 1, -0.0)])
def test_every_value_arrives_as_it_is(connection: psycopg.Connection[Any], rows: list[tuple[Any, ...]]) -> None:
    found = connection.execute(
        "SELECT * FROM unnest(%s::VARCHAR[], %s::BIGINT[], %s::DOUBLE PRECISION[])",
        arrays(rows, ("VARCHAR", "BIGINT", "DOUBLE PRECISION")),
    )
    assert found.fetchall() == rows


async def test_a_batch_is_applied_whole_or_change_by_change(postgres: PostgresBackend) -> None:
    one, other = make_task(tags={"tenant": 'a "b" \\ {c}'}), make_task(instance="two")
    await postgres.apply([Insert(one), Insert(other)])
    stale = started(other)
    stale.token = 2
    log = AppendLogs(one.task_id, (LogEntry(0, BASE, "info", "hello\n", 0, {}),))
    changes: list[Change] = [Update(started(one)), Update(stale), log]
    assert await postgres.apply(changes) == [APPLIED, Applied(Outcome.STALE), APPLIED]
    assert await postgres.get(one.task_id) == started(one)
    assert await postgres.get(other.task_id) == other
    ended = [finish(make_task()) for _ in range(150)]
    assert await postgres.apply([Insert(task) for task in ended]) == [APPLIED] * 150
    assert (await postgres.get_all([task.task_id for task in ended])) == {task.task_id: task for task in ended}
    assert postgres.connections_in_use() == 0


async def _applied(postgres: PostgresBackend, changes: list[Change], then: str) -> list[Any]:
    """Execute the statements of a batch, then another one in the same transaction; nothing is kept."""
    writer, engine = postgres._writer, postgres._write_engine
    assert writer is not None
    assert engine is not None
    async with engine.connect() as connection, connection.begin() as transaction:
        raw = (await connection.get_raw_connection()).driver_connection
        assert raw is not None
        await execute(raw, Batch(writer.statements, changes).steps(), settings_of({}))
        found = (await connection.exec_driver_sql(then)).all()
        await transaction.rollback()
        return [row[0] for row in found]


async def test_an_update_finds_its_rows_by_the_primary_key_even_in_a_small_table(postgres: PostgresBackend) -> None:
    one = make_task()
    await postgres.apply([Insert(one)])
    writer = postgres._writer
    assert writer is not None
    [step] = Batch(writer.statements, [Update(started(one))]).steps()
    text, types = of_arrays(step.statement)
    for place, value in enumerate(arrays(step.rows, types)):
        quoted = value.replace("'", "''")
        text = text.replace("%s", f"'{quoted}'", 1)
        assert place < len(types)
    plan = json.dumps(await _applied(postgres, [Update(started(one))], f"EXPLAIN (FORMAT JSON) {text}"))
    assert "taskflow_tasks_pkey" in plan
    assert "Seq Scan" not in plan


async def test_a_statement_that_hits_too_few_rows_is_noticed(postgres: PostgresBackend) -> None:
    with pytest.raises(UnexpectedRowCount):
        await _applied(postgres, [Update(started(make_task()))], "SELECT 1")


@pytest.mark.parametrize("text", ["BEGIN ISOLATION", "set_config", "UPDATE"])
async def test_a_connection_that_breaks_before_the_commit_is_replaced(
    postgres: PostgresBackend, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    one = make_task()
    await postgres.apply([Insert(one)])
    broken = Broken(monkeypatch, text)
    assert await postgres.apply([Update(started(one))]) == [APPLIED]
    assert len(broken.ended) == 1
    assert await postgres.get(one.task_id) == started(one)
    assert postgres.connections_in_use() == 0


async def test_whether_a_commit_without_an_answer_succeeded_is_left_to_the_next_try(
    postgres: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make_task()
    await postgres.apply([Insert(one)])
    Broken(monkeypatch, "; COMMIT")
    with pytest.raises(BackendUnavailableError):
        await postgres.apply([Update(started(one))])
    assert await postgres.get(one.task_id) == one
    assert await postgres.apply([Update(started(one))]) == [APPLIED]
    assert postgres.connections_in_use() == 0


async def test_the_ordinary_way_replaces_a_broken_connection_too(
    postgres: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make_task()
    await postgres.apply([Insert(one)])
    writer = postgres._writer
    assert writer is not None
    Broken(monkeypatch, "UPDATE")
    assert await SqlBackend._apply_at_once(postgres, writer, [Update(started(one))]) == [APPLIED]
    assert await postgres.get(one.task_id) == started(one)


async def test_a_batch_waits_for_the_server_twice_at_most(
    postgres: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [make_task() for _ in range(3)]
    gone = AppendLogs(make_task().task_id, (LogEntry(0, BASE, "info", "of a deleted task", 0, {}),))
    log = AppendLogs(tasks[0].task_id, (LogEntry(0, BASE, "info", "hello\n", 0, {}),))
    await postgres.apply([Insert(task) for task in tasks[:2]])
    waits = Waits(monkeypatch)
    changes: list[Change] = [Insert(tasks[2]), Update(finish(tasks[1])), Update(started(tasks[0])), log, gone]
    assert await postgres.apply(changes) == [APPLIED] * 5
    assert waits.asks >= 2
    # An answer that has come already is not waited for.
    assert waits.answers <= 2
    assert len(await postgres.logs(tasks[0].task_id)) == 1
    assert await postgres.logs(gone.task_id) == []


async def test_a_cancelled_batch_leaves_no_open_transaction(
    postgres: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, reached = make_task(), asyncio.Event()
    execute = psycopg.AsyncCursor.execute

    async def hang(cursor: Any, query: Any, *args: Any, **options: Any) -> Any:
        if str(query).endswith("; COMMIT") and not reached.is_set():
            reached.set()
            await asyncio.Event().wait()
        return await execute(cursor, query, *args, **options)

    monkeypatch.setattr(psycopg.AsyncCursor, "execute", hang)
    applying = asyncio.create_task(postgres.apply([Insert(one)]))
    await asyncio.wait_for(reached.wait(), 30)
    applying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await applying
    assert postgres.connections_in_use() == 0
    assert await postgres.get(one.task_id) is None
    assert await postgres.apply([Insert(one)]) == [APPLIED]


async def test_an_error_of_the_database_is_the_librarys_error(postgres: PostgresBackend) -> None:
    engine = postgres._write_engine
    assert engine is not None
    async with engine.begin() as connection:
        await connection.exec_driver_sql("DROP TABLE taskflow_task_tags")
    with pytest.raises(BackendUnavailableError, match="until the database is repaired"):
        await postgres.apply([Insert(make_task(tags={"tenant": "seven"}))])
    assert postgres.connections_in_use() == 0
