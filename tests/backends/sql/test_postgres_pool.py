"""Gifts to the pool and claims on PostgreSQL in few messages, whatever happens to their connection."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from taskflow_otel.backends import PostgresBackend
from taskflow_otel.backends.base import Insert
from taskflow_otel.backends.pool import POOL, Wanted
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.testing.backends.pool import pooled
from taskflow_otel.testing.backends.samples import make_task
from tests.backends.sql.flights import Broken, Waits

ANY = Wanted("default", {"send"}, 9)


async def _inserted(postgres: PostgresBackend, number: int = 1) -> list[TaskRecord]:
    tasks = [make_task() for _ in range(number)]
    await postgres.apply([Insert(task) for task in tasks])
    return tasks


async def _owner(postgres: PostgresBackend, task: TaskRecord) -> tuple[str, int]:
    stored = await postgres.get(task.task_id)
    assert stored is not None
    return stored.instance, stored.token - task.token


async def test_a_gift_waits_for_the_server_once_and_a_claim_twice(
    postgres: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = await _inserted(postgres, 3)
    # The connection has sent each statement before, as in a process that has run for a while.
    await postgres.pool_store.give("one", [pooled(tasks[0])])
    assert len(await postgres.pool_store.claim("two", ANY, ())) == 1
    waits = Waits(monkeypatch)
    await postgres.pool_store.give("one", [pooled(task) for task in tasks])
    assert (waits.asks >= 1, waits.answers <= 1) == (True, True)
    waits.answers = 0
    claimed = await postgres.pool_store.claim("two", ANY, ())
    assert [one.record.task_id for one in claimed] == [task.task_id for task in tasks[1:]]
    assert waits.answers <= 2
    assert postgres.connections_in_use() == 0


@pytest.mark.parametrize("text", ["BEGIN ISOLATION", "set_config", "INSERT INTO taskflow_pool", "pg_notify", "COMMIT"])
async def test_a_gift_whose_connection_breaks_is_made_on_another_one(
    postgres: PostgresBackend, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    [task] = await _inserted(postgres)
    broken = Broken(monkeypatch, text)
    await postgres.pool_store.give("one", [pooled(task)])
    assert len(broken.ended) == 1
    assert await _owner(postgres, task) == (POOL, 1)
    assert (await postgres.pool_store.depth(["default"]))["default"].tasks == 1
    assert postgres.connections_in_use() == 0


@pytest.mark.parametrize("text", ["BEGIN ISOLATION", "set_config", "FOR UPDATE SKIP LOCKED"])
async def test_a_claim_whose_connection_breaks_before_the_commit_is_made_on_another_one(
    postgres: PostgresBackend, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    [task] = await _inserted(postgres)
    await postgres.pool_store.give("one", [pooled(task)])
    broken = Broken(monkeypatch, text)
    [claimed] = await postgres.pool_store.claim("two", ANY, ())
    assert len(broken.ended) == 1
    assert await _owner(postgres, task) == ("two", 2)
    assert claimed.record.token == task.token + 2
    assert await postgres.pool_store.claim("two", ANY, ()) == []
    assert postgres.connections_in_use() == 0


@pytest.mark.parametrize("applied", [False, True])
async def test_the_next_claim_finds_what_a_claim_without_an_answer_has_got(
    postgres: PostgresBackend, monkeypatch: pytest.MonkeyPatch, applied: bool
) -> None:
    [task] = await _inserted(postgres)
    await postgres.pool_store.give("one", [pooled(task)])
    execute, lost = psycopg.AsyncCursor.execute, list[str]()

    async def lose(cursor: Any, query: Any, *args: Any, **options: Any) -> Any:
        if query == "COMMIT" and not lost:
            lost.append(query)
            if applied:
                await execute(cursor, query, *args, **options)
            await cursor.connection.close()
            raise psycopg.OperationalError("the connection was lost")
        return await execute(cursor, query, *args, **options)

    monkeypatch.setattr(psycopg.AsyncCursor, "execute", lose)
    with pytest.raises(BackendUnavailableError):
        await postgres.pool_store.claim("two", ANY, ())
    assert await _owner(postgres, task) == (("two", 2) if applied else (POOL, 1))
    assert await postgres.pool_store.claim("three", Wanted("other", {"send"}, 9), ()) == []
    [claimed] = await postgres.pool_store.claim("two", ANY, ())
    assert (claimed.record.task_id, claimed.record.token) == (task.task_id, task.token + 2)
    assert await _owner(postgres, task) == ("two", 2)
    assert await postgres.pool_store.claim("two", ANY, ()) == []
    assert postgres.connections_in_use() == 0


async def test_a_task_that_another_instance_locks_is_left_to_it_and_holds_up_no_claim(
    postgres: PostgresBackend, postgres_url: str
) -> None:
    tasks = await _inserted(postgres, 2)
    await postgres.pool_store.give("one", [pooled(task) for task in tasks])
    async with await psycopg.AsyncConnection.connect(postgres_url) as other:
        await other.execute("SELECT 1 FROM taskflow_pool WHERE task_id = %s FOR UPDATE", [tasks[0].task_id])
        [claimed] = await postgres.pool_store.claim("two", ANY, ())
        assert claimed.record.task_id == tasks[1].task_id
        await other.rollback()
    assert [one.record.task_id for one in await postgres.pool_store.claim("two", ANY, ())] == [tasks[0].task_id]
