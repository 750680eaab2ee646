"""The schema: its creation by many at once, its migration, its refusal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import Column, Index, Integer, Table, inspect
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from taskflow_otel.backends.base import Insert, Update
from taskflow_otel.backends.sql import schema
from taskflow_otel.backends.sql.backend import SqlBackend
from taskflow_otel.backends.sql.schema import SCHEMA_VERSION, metadata, prepare, stored_version
from taskflow_otel.errors import SchemaVersionError
from taskflow_otel.model.failure import fingerprint_of
from taskflow_otel.model.query import TaskQuery, Trend
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import Reason
from taskflow_otel.testing.backends.samples import BASE, finish, make_task
from tests.backends.conftest import BackendFactory

SQL = ["mysql", "postgres", "sqlite"]

pytestmark = pytest.mark.parametrize("backend_factory", SQL, indirect=True)


@pytest.fixture
async def backend(backend_factory: BackendFactory) -> AsyncIterator[SqlBackend]:
    backend = backend_factory()
    assert isinstance(backend, SqlBackend)
    await backend.open()
    yield backend
    await backend.close()


def engine_of(backend: SqlBackend) -> AsyncEngine:
    assert backend._write_engine is not None
    return backend._write_engine


async def test_many_may_create_the_schema_at_once(backend_factory: BackendFactory) -> None:
    backends = [backend_factory() for _ in range(6)]
    await asyncio.gather(*(backend.open() for backend in backends))
    for backend in backends:
        assert isinstance(backend, SqlBackend)
        async with engine_of(backend).connect() as connection:
            assert await stored_version(connection) == SCHEMA_VERSION
        await backend.close()


async def test_every_table_and_index_is_created(backend: SqlBackend) -> None:
    def names(connection: Any) -> set[str | None]:
        found = inspect(connection)
        tables = set(found.get_table_names())
        return tables | {index["name"] for table in tables for index in found.get_indexes(table)}

    wanted = {index.name for table in metadata.sorted_tables for index in table.indexes} | set(metadata.tables)
    async with engine_of(backend).connect() as connection:
        assert wanted <= await connection.run_sync(names)


async def test_an_older_schema_is_migrated_step_by_step(backend: SqlBackend) -> None:
    taken: list[int] = []

    def step(number: int) -> schema.Migration:
        async def migrate(connection: AsyncConnection) -> None:
            taken.append(number)
            await connection.run_sync(Table(f"step_{number}", metadata.__class__(), Column("x", Integer)).create)

        return migrate

    steps = [step(version) for version in range(1, SCHEMA_VERSION + 3)]
    newest = SCHEMA_VERSION + 2
    for _ in range(2):
        async with engine_of(backend).begin() as connection:
            await prepare(connection, backend._dialect, "here", version=newest, migrations=steps)
    assert taken == [SCHEMA_VERSION, SCHEMA_VERSION + 1]
    async with engine_of(backend).connect() as connection:
        assert await stored_version(connection) == newest


@pytest.mark.parametrize("interrupted", [False, True], ids=["", "after a step that was interrupted at its end"])
async def test_tasks_of_the_first_version_get_the_index_of_those_that_went_wrong(
    backend: SqlBackend, backend_factory: BackendFactory, interrupted: bool
) -> None:
    [index] = [index for index in schema.tasks.indexes if index.name == "taskflow_tasks_gone_wrong"]
    task = finish(make_task(func_name="x"), TaskStatus.FAILED)
    await backend.apply([Insert(task), Insert(make_task())])
    async with engine_of(backend).begin() as connection:
        if not interrupted:
            await connection.run_sync(index.drop)
        await connection.execute(schema.meta.update().values(value="1"))
    await backend.close()
    again = backend_factory()
    assert isinstance(again, SqlBackend)
    await again.open()
    async with engine_of(again).connect() as connection:
        assert await stored_version(connection) == SCHEMA_VERSION
        indexes = await connection.run_sync(lambda sync: inspect(sync).get_indexes(schema.tasks.name))
    assert index.name in {found["name"] for found in indexes}
    [migrated] = (await again.page(TaskQuery(func_name="x", status=TaskStatus.FAILED))).records
    assert replace(migrated, failures=()) == task
    await again.close()


async def test_failures_of_an_earlier_version_get_the_fingerprints_that_new_ones_have(
    backend: SqlBackend, backend_factory: BackendFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_TOLD_AT_ONCE", 2)
    trace = 'Traceback:\n  File "/srv/shop/app.py", line 7, in charge\n    x()\nKeyError: 3'
    error = {"error": "no order 3", "error_type": "KeyError", "stacktrace": trace}
    failed = [finish(make_task(**error), TaskStatus.FAILED) for _ in range(5)]
    lost = finish(make_task(reason=Reason.PROCESS_DIED.value), TaskStatus.INTERRUPTED)
    meant = finish(make_task(reason=Reason.OVERLAP.value), TaskStatus.REJECTED)
    fine = finish(make_task())
    await backend.apply([Insert(task) for task in (*failed, lost, meant, fine)])
    async with engine_of(backend).begin() as connection:
        [index] = [index for index in schema.tasks.indexes if index.name == "taskflow_tasks_by_fingerprint"]
        await connection.run_sync(index.drop)
        for column in ("fingerprint", "failures"):
            await connection.exec_driver_sql(f"ALTER TABLE taskflow_tasks DROP COLUMN {column}")
        await connection.execute(schema.meta.update().values(value="4"))
    await backend.close()
    again = backend_factory()
    assert isinstance(again, SqlBackend)
    await again.open()
    kind = fingerprint_of("send", TaskStatus.FAILED, **error)
    other = fingerprint_of("send", TaskStatus.INTERRUPTED, reason=lost.reason)
    groups = (await again.failure_store.groups(TaskQuery(), Trend(BASE, BASE))).groups
    assert {group.fingerprint: group.total for group in groups} == {kind: 5, other: 1}
    stored = await again.get(failed[0].task_id)
    assert stored is not None
    assert [(one.error, one.frames) for one in stored.failures] == [("no order 3", ("/srv/shop/app.py:7 in charge",))]
    assert await again.get(fine.task_id) == fine
    await again.close()


async def test_a_newer_schema_is_refused(backend: SqlBackend, backend_factory: BackendFactory) -> None:
    async with engine_of(backend).begin() as connection:
        await connection.execute(schema.meta.update().values(value=str(SCHEMA_VERSION + 1)))
    with pytest.raises(SchemaVersionError, match="Upgrade taskflow-otel, or point this process at another database"):
        await backend_factory().open()


def names_of(connection: Any) -> set[str]:
    found = inspect(connection)
    tables = set(found.get_table_names())
    return tables | {str(index["name"]) for table in tables for index in found.get_indexes(table)}


async def test_a_start_creates_each_table_and_index_that_a_killed_one_has_left_out(
    backend: SqlBackend, backend_factory: BackendFactory
) -> None:
    made: list[Index | Table] = [index for table in metadata.sorted_tables for index in table.indexes]
    made += metadata.sorted_tables
    for missing in made:
        async with engine_of(backend).begin() as connection:
            await connection.run_sync(missing.drop)
            assert str(missing.name) not in await connection.run_sync(names_of)
        again = backend_factory()
        assert isinstance(again, SqlBackend)
        await again.open()
        async with engine_of(again).connect() as connection:
            assert {str(one.name) for one in made} <= await connection.run_sync(names_of)
            assert await stored_version(connection) == SCHEMA_VERSION
        # The unique index above all: without it, idempotency would be gone without a word.
        one, other = make_task(idempotency_key="k"), make_task(idempotency_key="k")
        outcomes = [applied.outcome for applied in await again.apply([Insert(one), Insert(other)])]
        assert outcomes == ["applied", "duplicate"]
        await again.apply([Update(finish(one, TaskStatus.FAILED))])
        await again.close()
