"""What the databases' own codes mean, asked of real servers."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from taskflow_otel.backends import MySQLBackend, PostgresBackend, SqliteBackend
from taskflow_otel.backends.base import Insert, Update
from taskflow_otel.backends.faults import Fault
from taskflow_otel.backends.sql.faults import mysql_fault, postgres_fault, sqlite_fault
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.testing.backends.fixtures import APPLIED
from taskflow_otel.testing.backends.samples import finish, make_task

POSTGRES = [
    ("SET default_transaction_read_only = on; CREATE TABLE no (n int)", "25006", Fault.CONNECTION),
    ("EXECUTE never_prepared", "26000", Fault.CONNECTION),
    ("SELECT pg_terminate_backend(pg_backend_pid())", "57P01", Fault.CONNECTION),
    ("SET statement_timeout = 1; SELECT pg_sleep(5)", "57014", Fault.HELD),
    ("SELECT 'x'::int", "22P02", Fault.CHANGE),
    ("SELECT 1 / 0", "22012", Fault.CHANGE),
    ("CREATE TEMP TABLE one (n int PRIMARY KEY); INSERT INTO one VALUES (1), (1)", "23505", Fault.CHANGE),
    (("CREATE TEMP TABLE big (t text PRIMARY KEY); "
     "INSERT INTO big SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 400)"), "54000", Fault.CHANGE),
    ("SELECT * FROM no_such_table", "42P01", Fault.SETUP),
    ("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$", "40001", Fault.CONFLICT),
    ("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$", "40P01", Fault.CONFLICT),
    ("DO $$ BEGIN RAISE SQLSTATE '53300'; END $$", "53300", Fault.PASSING),
    ("DO $$ BEGIN RAISE SQLSTATE '53100'; END $$", "53100", Fault.PASSING),
    ("DO $$ BEGIN RAISE SQLSTATE '55P03'; END $$", "55P03", Fault.HELD),
    ("DO $$ BEGIN RAISE SQLSTATE '08006'; END $$", "08006", Fault.CONNECTION),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "state", "fault"), POSTGRES, ids=[state for _, state, _ in POSTGRES])
def test_an_error_of_postgres_is_judged_by_its_sqlstate(
    postgres_url: str, statement: str, state: str, fault: Fault
) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection, pytest.raises(psycopg.Error) as caught:  # noqa: PT012
        for part in statement.split("; ") if not statement.startswith("DO") else [statement]:
            connection.execute(part)
    assert caught.value.sqlstate == state
    assert postgres_fault(caught.value) is fault


@pytest.mark.parametrize(
    "message", ['prepared statement "_pg3_0" does not exist', 'prepared statement "s" already exists']
)
@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError, psycopg.ProgrammingError, psycopg.DatabaseError,
        psycopg.errors.InvalidSqlStatementName, psycopg.errors.DuplicatePreparedStatement,
    ],
)  # fmt: skip
def test_a_pooler_that_confuses_prepared_statements_spoils_the_connection_and_no_change(
    error: type[psycopg.Error], message: str
) -> None:
    assert postgres_fault(error(message)) is Fault.CONNECTION


MYSQL = [
    ("INSERT INTO one VALUES (1), (1)", 1062, Fault.CHANGE),
    ("INSERT INTO short VALUES ('long')", 1406, Fault.CHANGE),
    ("INSERT INTO narrow VALUES (_utf8mb4'\U0001f389')", 1366, Fault.CHANGE),
    ("SELECT * FROM no_such_table", 1146, Fault.SETUP),
    ("SELECT FROM", 1064, Fault.SETUP),
    ("KILL CONNECTION_ID()", None, Fault.CONNECTION),
    *((f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {number}", number, fault) for number, fault in (
        (1205, Fault.HELD), (1213, Fault.CONFLICT), (1020, Fault.CONFLICT), (1290, Fault.CONNECTION),
        (2006, Fault.CONNECTION), (2013, Fault.CONNECTION), (1153, Fault.CHANGE), (1709, Fault.SETUP),
        (1040, Fault.PASSING), (1021, Fault.PASSING))),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "number", "fault"), MYSQL, ids=[str(number) for _, number, _ in MYSQL])
async def test_an_error_of_mysql_is_judged_by_its_number(
    mariadb_url: str, statement: str, number: int | None, fault: Fault
) -> None:
    engine = create_async_engine(make_url(mariadb_url).set(drivername="mysql+aiomysql"))
    try:
        with pytest.raises(DBAPIError) as caught:  # noqa: PT012
            async with engine.begin() as connection:
                await connection.execute(text("CREATE TEMPORARY TABLE one (n int PRIMARY KEY)"))
                await connection.execute(text("CREATE TEMPORARY TABLE short (t varchar(2))"))
                await connection.execute(text("CREATE TEMPORARY TABLE narrow (t varchar(9)) CHARACTER SET latin1"))
                await connection.exec_driver_sql(statement)
                await connection.exec_driver_sql("SELECT 1")
    finally:
        await engine.dispose()
    if number is not None:
        assert caught.value.orig is not None
        assert caught.value.orig.args[0] == number
    assert mysql_fault(caught.value) is fault


def test_an_error_of_sqlite_is_judged_by_its_code(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    one, other = (sqlite3.connect(path, isolation_level=None, timeout=0) for _ in range(2))
    one.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000)
    one.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)")
    cases = [
        (one, "INSERT INTO t VALUES (1), (1)", (), Fault.CHANGE),
        (one, "SELECT zeroblob(20000)", (), Fault.CHANGE),
        (one, "INSERT INTO t VALUES ('x')", (), Fault.CHANGE),
        (one, "INSERT INTO t VALUES (?)", (2**70,), Fault.CHANGE),
        (one, "SELECT * FROM missing", (), Fault.SETUP),
    ]
    for connection, statement, values, fault in cases:
        with pytest.raises((sqlite3.Error, OverflowError)) as caught:
            connection.execute(statement, values)
        assert sqlite_fault(caught.value) is fault, statement
    one.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.Error) as caught:
        other.execute("BEGIN IMMEDIATE")
    assert sqlite_fault(caught.value) is Fault.PASSING
    one.execute("ROLLBACK")
    other.execute("PRAGMA query_only = 1")
    with pytest.raises(sqlite3.Error) as caught:
        other.execute("INSERT INTO t VALUES (7)")
    assert sqlite_fault(caught.value) is Fault.CONNECTION
    one.close()
    other.close()
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(sqlite3.Error) as caught:
        sqlite3.connect(damaged).execute("SELECT * FROM t")
    assert sqlite_fault(caught.value) is Fault.SETUP
    with pytest.raises(sqlite3.Error) as caught:
        sqlite3.connect(tmp_path / "no" / "such.db")
    assert sqlite_fault(caught.value) is Fault.CONNECTION


async def test_a_row_that_another_program_locks_is_an_error_that_can_be_divided(
    postgres: PostgresBackend, postgres_url: str
) -> None:
    locked, free = make_task(), make_task()
    await postgres.apply([Insert(locked), Insert(free)])
    async with await psycopg.AsyncConnection.connect(postgres_url) as other:
        await other.execute("SELECT 1 FROM taskflow_tasks WHERE task_id = %s FOR UPDATE", (locked.task_id,))
        with pytest.raises(BackendUnavailableError) as caught:
            await postgres.apply([Update(finish(locked)), Update(finish(free))])
        assert caught.value.divisible
        assert await postgres.apply([Update(finish(free))]) == [APPLIED]
    assert await postgres.apply([Update(finish(locked))]) == [APPLIED]


@pytest.mark.parametrize("kind", ["postgres", "mysql"])
async def test_a_transaction_without_a_statement_is_ended_within_the_lease(
    kind: str, request: pytest.FixtureRequest
) -> None:
    url: str = request.getfixturevalue("postgres_url" if kind == "postgres" else "mariadb_url")
    maker = PostgresBackend if kind == "postgres" else MySQLBackend
    stopped, other = maker(url), maker(url)
    for backend in (stopped, other):
        backend.use_lease(6.0)
        await backend.open()
    task = make_task()
    await stopped.apply([Insert(task)])
    assert stopped._write_engine is not None
    connection = await stopped._write_engine.connect()
    await connection.begin()
    await connection.execute(text("SELECT 1 FROM taskflow_tasks FOR UPDATE"))
    deadline = asyncio.get_running_loop().time() + 10
    while True:
        try:
            assert await other.apply([Update(finish(task))]) == [APPLIED]
            break
        except BackendUnavailableError as error:
            if not error.divisible or asyncio.get_running_loop().time() > deadline:
                raise
    with suppress(DBAPIError):
        # The server has ended it already.
        await connection.close()
    await stopped.close()
    await other.close()


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_sqlite_file_that_is_deleted_or_replaced_takes_no_write(tmp_path: Path, replaced: bool) -> None:
    path, aside = tmp_path / "x.db", tmp_path / "aside.db"
    backend = SqliteBackend(path)
    await backend.open()
    path.rename(aside)
    if replaced:
        path.touch()
    with pytest.raises(BackendUnavailableError, match="was deleted or replaced while it was open"):
        await backend.apply([Insert(make_task())])
    aside.replace(path)
    assert await backend.apply([Insert(make_task())]) == [APPLIED]
    await backend.close()
