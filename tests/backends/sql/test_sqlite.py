"""What is particular to SQLite: its file, its locks, its durability."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from taskflow_otel.backends import SqliteBackend
from taskflow_otel.backends.base import Applied, Insert, Outcome, Update
from taskflow_otel.backends.sql import sqlite
from taskflow_otel.errors import BackendError, BackendUnavailableError, ConfigurationError, SchemaVersionError
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.runtime import private_files
from taskflow_otel.testing.backends.samples import BASE, finish, make_task

APPLIED = Applied(Outcome.APPLIED)

WRITER = """
import asyncio, sys
from taskflow_otel.backends import SqliteBackend
from taskflow_otel.backends.base import Insert, Update
from taskflow_otel.testing.backends.samples import finish, make_task

async def main(path, owner, batches):
    backend = SqliteBackend(path)
    await backend.open()
    for _ in range(batches):
        tasks = [make_task(instance=owner) for _ in range(10)]
        results = await backend.apply([Insert(task) for task in tasks])
        results += await backend.apply([Update(finish(task)) for task in tasks])
        assert {result.outcome for result in results} == {"applied"}
        print(*(task.task_id for task in tasks), flush=True)
    await backend.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def start_writer(path: Path, owner: str, batches: int) -> subprocess.Popen[str]:
    """A process that writes batches of ten tasks and prints their ids once they are acknowledged."""
    command = [sys.executable, "-c", WRITER, str(path), owner, str(batches)]
    root = Path(__file__).parents[3]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
async def backend(path: Path) -> AsyncIterator[SqliteBackend]:
    backend = SqliteBackend(path)
    await backend.open()
    yield backend
    await backend.close()


def writer_of(backend: SqliteBackend) -> AsyncEngine:
    assert backend._write_engine is not None
    return backend._write_engine


async def pragma(backend: SqliteBackend, statement: str) -> object:
    """Run a pragma on the one connection that writes."""
    async with writer_of(backend).connect() as connection:
        driver = await connection.get_raw_connection()
        assert driver.driver_connection is not None
        cursor = await driver.driver_connection.execute(f"PRAGMA {statement}")
        row = await cursor.fetchone()
        await cursor.close()
    return None if row is None else row[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (":memory:", r"For tasks kept in memory use MemoryBackend\(\)"),
        ("", "needs the path of a file"),
        ("file:tasks.db?mode=ro", "needs the path of a file"),
        ("missing/tasks.db", "there is no directory .*missing.*Create it"),
        ("directory", "is a directory. Name a file inside it"),
        ("text.db", "is not a SQLite database. Give another path"),
    ],
)
def test_a_path_that_cannot_be_used_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "directory").mkdir()
    (tmp_path / "text.db").write_text("dear diary, this is no database")
    with pytest.raises(ConfigurationError, match=message):
        SqliteBackend(name)


def test_a_directory_that_may_not_be_written_is_refused_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    with pytest.raises(ConfigurationError, match=r"may not write to .* Change its permissions"):
        SqliteBackend(path)


def test_an_unknown_durability_is_refused(path: Path) -> None:
    with pytest.raises(ConfigurationError, match='"full" or "normal"'):
        SqliteBackend(path, durability="half")  # type: ignore[arg-type]  # this is the test


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("normal", 1)])
async def test_durability_decides_whether_a_commit_waits_for_the_disk(
    path: Path, durability: sqlite.Durability, synchronous: int
) -> None:
    backend = SqliteBackend(path, durability=durability)
    await backend.open()
    try:
        assert await pragma(backend, "synchronous") == synchronous
        assert await pragma(backend, "journal_mode") == "wal"
    finally:
        await backend.close()


async def test_an_empty_file_becomes_a_database(path: Path) -> None:
    path.touch()
    backend = SqliteBackend(path)
    await backend.open()
    assert await backend.apply([Insert(make_task())]) == [APPLIED]
    await backend.close()


async def test_a_damaged_database_is_named_as_such(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\x00" + b"\xff" * 4_000)
    backend = SqliteBackend(path)
    with pytest.raises(BackendError, match="damaged or not a SQLite database") as caught:
        await backend.open()
    assert caught.value.transient is False


async def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    first = SqliteBackend(path)
    await first.open()
    await first.close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE taskflow_meta SET value = '99' WHERE name = 'schema_version'")
    with pytest.raises(SchemaVersionError, match=r"schema version 99, this .* knows up to \d+. Upgrade taskflow-otel"):
        await SqliteBackend(path).open()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT value FROM taskflow_meta").fetchall() == [("99",)]


async def test_use_before_open_and_after_close_says_so(path: Path) -> None:
    backend = SqliteBackend(path)
    for use in (backend.get("x"), backend.apply([Insert(make_task())]), backend.delete_finished(BASE, 1)):
        with pytest.raises(BackendUnavailableError, match="is not open"):
            await use
    await backend.open()
    await backend.open()
    await backend.close()
    with pytest.raises(BackendUnavailableError, match="is not open"):
        await backend.request_cancel("x")


async def test_closing_leaves_no_thread(path: Path) -> None:
    before = set(threading.enumerate())
    backend = SqliteBackend(path)
    await backend.open()
    await asyncio.gather(*(backend.get("x") for _ in range(10)))
    await backend.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=10)
        assert not thread.is_alive()


async def test_a_lock_held_too_long_is_an_error_that_passes(path: Path) -> None:
    backend = SqliteBackend(path)
    backend.use_lease(0.15)
    await backend.open()
    task = make_task()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BackendUnavailableError, match="locked by another process"):
            await backend.apply([Insert(task)])
        assert await backend.get(task.task_id) is None
        other.execute("ROLLBACK")
    assert await backend.apply([Insert(task)]) == [APPLIED]
    await backend.close()


@pytest.mark.parametrize("existing", [False, True], ids=["new file", "existing file"])
async def test_a_start_while_another_process_holds_the_write_lock_says_so_and_the_next_one_succeeds(
    path: Path, existing: bool
) -> None:
    kept = make_task()
    if existing:
        before = SqliteBackend(path)
        await before.open()
        await before.apply([Insert(kept)])
        await before.close()
    backend = SqliteBackend(path)
    backend.use_lease(0.15)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        # The lock lasts until the start has failed: a start without a limit would never return.
        with pytest.raises(
            BackendUnavailableError, match=r"tasks\.db' is locked by another process.* Look for a long transaction"
        ) as caught:
            await backend.open()
        assert caught.value.transient is True
        other.execute("ROLLBACK")
        # Enough for the machine, however loaded it is: nothing holds the lock now.
        backend.use_lease(30)
        await backend.open()
    try:
        assert await backend.get(kept.task_id) == (kept if existing else None)
        assert await backend.apply([Insert(make_task())]) == [APPLIED]
    finally:
        await backend.close()


async def test_a_full_disk_is_an_error_that_passes(backend: SqliteBackend) -> None:
    kept = make_task()
    await backend.apply([Insert(kept)])
    pages = await pragma(backend, "page_count")
    await pragma(backend, f"max_page_count = {pages}")
    large = [make_task(payload="x" * 100_000) for _ in range(3)]
    with pytest.raises(BackendUnavailableError, match=r"the disk is full. Free some space") as caught:
        await backend.apply([Insert(task) for task in large])
    assert caught.value.transient is True
    assert [await backend.get(task.task_id) for task in (kept, *large)] == [kept, None, None, None]
    await pragma(backend, "max_page_count = 1000000")
    assert await backend.apply([Insert(task) for task in large]) == [APPLIED] * 3


async def test_a_database_that_became_read_only_says_what_to_do(backend: SqliteBackend) -> None:
    await pragma(backend, "query_only = 1")
    with pytest.raises(BackendUnavailableError, match=r"is read-only. Make the file and its directory writable"):
        await backend.apply([Insert(make_task())])


async def test_a_cancelled_write_leaves_the_backend_usable(backend: SqliteBackend) -> None:
    for _ in range(10):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await backend.apply([Insert(make_task()) for _ in range(50)])
    task = make_task()
    assert await backend.apply([Insert(task), Update(finish(task))]) == [APPLIED, APPLIED]
    assert backend.connections_in_use() == 0


async def test_several_processes_share_one_file_from_its_creation_on(path: Path) -> None:
    writers = [start_writer(path, f"process{n}", batches=15) for n in range(4)]
    printed = [(await asyncio.to_thread(writer.communicate, timeout=120))[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 4
    backend = SqliteBackend(path)
    await backend.open()
    records = (await backend.page(TaskQuery(limit=1_000))).records
    assert {record.task_id for record in records} == {task_id for lines in printed for task_id in lines.split()}
    assert (await backend.counts(TaskQuery())).by_status == {TaskStatus.SUCCESS: 600}
    await backend.close()


async def test_what_a_killed_process_had_acknowledged_is_kept(path: Path) -> None:
    writer = start_writer(path, "killed", batches=100_000)
    assert writer.stdout is not None
    acknowledged = "".join([await asyncio.to_thread(writer.stdout.readline) for _ in range(5)])
    writer.send_signal(signal.SIGKILL)
    acknowledged += (await asyncio.to_thread(writer.communicate, timeout=60))[0].rpartition("\n")[0]
    backend = SqliteBackend(path)
    await backend.open()
    for task_id in acknowledged.split():
        record = await backend.get(task_id)
        assert record is not None
        assert record.status is TaskStatus.SUCCESS
    await backend.close()


async def test_a_database_that_cannot_have_a_write_ahead_log_is_refused_at_the_opening(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect

    def without_shared_memory(database: str, **options: Any) -> sqlite3.Connection:
        # How SQLite sees a file system that offers no locks and no memory shared between processes.
        made: sqlite3.Connection = connect(f"file:{database}?vfs=unix-none", uri=True, **options)
        return made

    monkeypatch.setattr(sqlite3, "connect", without_shared_memory)
    backend = SqliteBackend(path)
    with pytest.raises(ConfigurationError, match=r"no write-ahead log \(journal_mode is 'delete'\).* on a local disk"):
        await backend.open()
    await backend.close()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_IOERR_LOCK, sqlite3.SQLITE_IOERR_SHMMAP])
async def test_a_file_system_that_cannot_lock_is_named_at_the_opening(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    connect = sqlite3.connect

    class Cursor(sqlite3.Cursor):
        def execute(self, statement: str, *parameters: Any) -> Self:
            if "journal_mode" in statement:
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = code
                raise error
            return super().execute(statement, *parameters)

    def without_locks(database: str, factory: type[sqlite3.Connection], **options: Any) -> sqlite3.Connection:
        class Connection(factory):  # type: ignore[valid-type, misc]  # the requested one
            def cursor(self, *_: object) -> Cursor:
                cursor: Cursor = super().cursor(Cursor)
                return cursor

        return connect(database, factory=Connection, **options)

    monkeypatch.setattr(sqlite3, "connect", without_locks)
    backend = SqliteBackend(path)
    with pytest.raises(BackendError, match=r"cannot lock files as SQLite needs it\. Put it on a local disk"):
        await backend.open()
    await backend.close()


@pytest.mark.parametrize("mask", [0o000, 0o022])
async def test_the_database_and_its_other_files_belong_to_this_account_alone(path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        backend = SqliteBackend(path)
        await backend.open()
        await backend.apply([Insert(make_task())])
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"tasks.db": 0o600, "tasks.db-wal": 0o600, "tasks.db-shm": 0o600}
    await backend.close()


async def test_a_database_that_others_can_read_is_used_with_a_warning(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Who gets through the directories of a test is nobody's business here.
    monkeypatch.setattr(private_files, "_lets_in", lambda directory, group: True)
    path.touch()
    path.chmod(0o640)
    backend = SqliteBackend(path)
    await backend.open()
    await backend.close()
    [message] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "arguments, errors and logs of tasks, can be read by the group" in message
    assert f"chmod 600 {path} {path}-wal {path}-shm" in message


@pytest.mark.parametrize("again", [SqliteBackend, sqlite._checked_path])
async def test_a_second_look_at_the_file_leaves_the_locks_of_the_first_backend(
    backend: SqliteBackend, path: Path, again: Any
) -> None:
    await backend.apply([Insert(make_task())])
    again(path)
    # A process that finds no lock holds itself for the last one, and deletes the log that the backend writes.
    program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA schema_version'); c.close()"
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program, str(path)], check=True)
    assert path.with_name("tasks.db-wal").exists()
