"""Tasks in a SQLite file."""

from __future__ import annotations

import logging
import operator
import os
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args
from urllib.parse import quote

from sqlalchemy import URL, ExceptionContext, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from taskflow_otel.backends.base import Applied, Change
from taskflow_otel.backends.faults import backend_error
from taskflow_otel.backends.sql.backend import SqlBackend
from taskflow_otel.backends.sql.batch import Batch
from taskflow_otel.backends.sql.dialects import SqliteDialect
from taskflow_otel.backends.sql.faults import original, sqlite_fault
from taskflow_otel.backends.sql.sqlite_batches import WholeBatch
from taskflow_otel.backends.sql.writes import APPLIED, Writer
from taskflow_otel.compat.aiosqlite import ScriptConnection, run_script
from taskflow_otel.errors import BackendError, BackendUnavailableError, ConfigurationError
from taskflow_otel.runtime.clock import SYSTEM_CLOCK
from taskflow_otel.runtime.private_files import open_private, warn_of_readers
from taskflow_otel.runtime.retrying import Backoff, retrying

_log = logging.getLogger("taskflow_otel")
Durability = Literal["full", "normal"]
T = TypeVar("T")

_BROKEN = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR})
_LOCKING = frozenset(
    {
        sqlite3.SQLITE_IOERR_LOCK,
        sqlite3.SQLITE_IOERR_RDLOCK,
        sqlite3.SQLITE_IOERR_UNLOCK,
        sqlite3.SQLITE_IOERR_SHMOPEN,
        sqlite3.SQLITE_IOERR_SHMMAP,
        sqlite3.SQLITE_IOERR_SHMLOCK,
    }
)
_HEADER = b"SQLite format 3\x00"
_READERS = 3
_CHECKPOINT_PAGES = 4_000
_CLOCK = SYSTEM_CLOCK
"""The system clock: the waits are for other processes that lock the file."""
_LOCKED = Backoff(first=0.02, longest=0.02)
_WRITER_CACHE_KIB = 16_384


# A text that is not UTF-8, written by another program, would make its whole page unreadable.
_READ_TEXT = operator.methodcaller("decode", "utf-8", "replace")


class SqliteBackend(SqlBackend):
    """Tasks in one SQLite file, which several processes of one machine may share.

    `path`: the file; it is created if missing, but its directory is not. `durability="full"` (the default) survives
    power loss: each commit waits for the disk (https://www.sqlite.org/pragma.html#pragma_synchronous). `"normal"`
    survives the death of the process, but a power loss may lose the last commits. `namespace` separates applications
    that share a file.

    The file is created for this account alone (mode 0600); one that others can read gives a warning.

    After the file was deleted or replaced, each write raises `BackendUnavailableError`.

    Raises `ConfigurationError` for a path that cannot be used. Not for network file systems: SQLite's shared-memory
    index needs one machine (https://www.sqlite.org/wal.html).
    """

    name = "sqlite"
    _shards = 1
    _one_writer = True

    def __init__(
        self, path: str | os.PathLike[str], *, durability: Durability = "full", namespace: str | None = None
    ) -> None:
        if durability not in get_args(Durability):
            raise ConfigurationError(f'durability must be "full" or "normal", not {durability!r}')
        self._path = _checked_path(path)
        self._durability = durability
        super().__init__(f"the SQLite database {str(self._path)!r}", SqliteDialect(), None, namespace)
        self._identity: tuple[int, int] | None = None

    @property
    def _timeout(self) -> float | None:
        # An operation in a thread cannot be abandoned; SQLite itself limits the wait for the lock.
        return None

    def _connect(self) -> tuple[AsyncEngine, AsyncEngine]:
        synchronous = f"PRAGMA synchronous = {self._durability.upper()}"
        writer = self._engine(
            1,
            synchronous,
            f"PRAGMA cache_size = -{_WRITER_CACHE_KIB}",
            factory=ScriptConnection,
            # A rollback for each returned connection would cost a hop for each batch: see `_roll_back`.
            pool_reset_on_return=None,
        )
        event.listen(writer.sync_engine, "reset", _roll_back)
        # A write transaction takes the lock at its begin: one that begins with a read could not wait for the lock.
        event.listen(writer.sync_engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        # Set once for each connection: if a caller were cancelled during a change, its connection would be lost.
        return writer, self._engine(_READERS, isolation_level="AUTOCOMMIT")

    def _engine(
        self, connections: int, *pragmas: str, factory: type[sqlite3.Connection] = sqlite3.Connection, **options: Any
    ) -> AsyncEngine:
        engine = create_async_engine(
            URL.create("sqlite+aiosqlite", database=str(self._path)),
            poolclass=AsyncAdaptedQueuePool,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=self._limits.operation * 2,
            hide_parameters=True,
            # The driver must not begin transactions by itself.
            connect_args={"isolation_level": None, "timeout": self._limits.operation, "factory": factory},
            **options,
        )
        settings = ("PRAGMA journal_mode = WAL", f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}", *pragmas)

        def set_up(connection: Any, _: object) -> None:
            try:
                connection.driver_connection.text_factory = _READ_TEXT
                cursor = connection.cursor()
                for pragma in settings:
                    cursor.execute(pragma)
                cursor.close()
            except BaseException:
                # The pool forgets a connection whose setup failed, but its thread would stay.
                connection.close()
                raise

        def renew(context: ExceptionContext) -> None:
            # A connection that was opened while the file was read-only never writes.
            if _code(context.original_exception) in _BROKEN:
                context.is_disconnect = True

        event.listen(engine.sync_engine, "connect", set_up)
        event.listen(engine.sync_engine, "handle_error", renew)
        return engine

    async def _apply_at_once(self, writer: Writer, changes: Sequence[Change]) -> list[Applied]:
        """Apply a batch in one transaction, in one hop to the thread of the connection that writes."""
        engine = self._write_engine
        if engine is None:
            raise self._not_open()
        self._check_file()
        batch = WholeBatch(Batch(writer.statements, changes), writer.statements, writer.shard)
        # From the pool, without a `Connection` of SQLAlchemy around it: that takes four times as long for each batch.
        pooled = await engine.raw_connection()
        connection = pooled.driver_connection
        assert connection is not None
        broken: sqlite3.Error | None = None
        try:
            await run_script(connection, batch)
        except sqlite3.Error as error:
            if _code(error) in _BROKEN:
                broken = error
            raise
        finally:
            try:
                if connection.in_transaction:
                    # The caller was cancelled, or the batch could not be rolled back.
                    await connection.rollback()
            finally:
                pooled.close()
            if broken is not None:
                # The pool has one connection, so this is the same one. Only here can its end be awaited.
                async with engine.connect() as used:
                    await used.invalidate(broken)
        self._check_file()
        return [APPLIED] * len(changes)

    async def _prepare(self, engine: AsyncEngine, lift_limit: Callable[[], None]) -> None:
        _checked_path(self._path)
        # SQLite gives its other files the permissions of this one. Its own error says better why there can be none.
        with suppress(OSError):
            os.close(open_private(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        prepare, deadline = super()._prepare, _CLOCK.monotonic() + self._limits.operation

        def judge(error: Exception, _wait: float) -> None:
            locked = isinstance(error, DBAPIError) and _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not locked or _CLOCK.monotonic() > deadline:
                raise error

        # Turning on the write-ahead log does not wait for other processes that do the same.
        await retrying(_CLOCK, lambda: prepare(engine, lift_limit), backoff=_LOCKED, judge=judge)
        async with engine.connect() as connection:
            mode = (await connection.exec_driver_sql("PRAGMA journal_mode")).scalar()
        if mode != "wal":
            raise ConfigurationError(
                f"{self._where} has no write-ahead log (journal_mode is {mode!r}): its file system has no memory "
                "shared between processes. Put it on a local disk."
            )
        warn_of_readers(_log, f"{self._where}, with the arguments, errors and logs of tasks,", self._files())
        self._identity = self._file_identity()

    async def _write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        self._check_file()
        answer = await super()._write(work)
        # A commit into a deleted file would be lost.
        self._check_file()
        return answer

    def _check_file(self) -> None:
        if self._identity is not None and self._file_identity() != self._identity:
            raise BackendUnavailableError(
                f"{self._where} was deleted or replaced while it was open, so nothing more is written to the old file. "
                "Put the file back, or restart this process to use the new one."
            )

    def _files(self) -> list[Path]:
        """The database, its write-ahead log and the index of that."""
        return [self._path.with_name(f"{self._path.name}{suffix}") for suffix in ("", "-wal", "-shm")]

    def _file_identity(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _explain(self, operation: str, error: Exception) -> BackendError:
        match _code(error):
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                reason = "is locked by another process for too long. Look for a long transaction in another program"
            case sqlite3.SQLITE_FULL:
                reason = "cannot grow: the disk is full. Free some space"
            case sqlite3.SQLITE_READONLY:
                reason = "is read-only. Make the file and its directory writable for this process"
            case sqlite3.SQLITE_CANTOPEN:
                reason = "cannot be opened. Make its directory exist and writable for this process"
            case sqlite3.SQLITE_PROTOCOL:
                reason = "is on a file system that cannot lock files as SQLite needs it. Put it on a local disk"
            case sqlite3.SQLITE_IOERR if getattr(original(error), "sqlite_errorcode", 0) in _LOCKING:
                reason = "is on a file system that cannot lock files as SQLite needs it. Put it on a local disk"
            case sqlite3.SQLITE_IOERR:
                reason = f"cannot be read or written ({original(error)}). Check the disk and its free space"
            case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
                reason = (
                    f"is damaged or not a SQLite database ({original(error)}). "
                    "Restore it from a backup, or give another path"
                )
            case _:
                return super()._explain(operation, error)
        return backend_error(sqlite_fault(error), f"{self._where} {reason}.", opening=not self._opened)


def _roll_back(connection: Any, _record: object, _state: object) -> None:
    """End the open transaction of a returned connection."""
    if connection.driver_connection.in_transaction:
        connection.rollback()


def _code(error: BaseException) -> int | None:
    """The primary result code, the lowest byte of an extended one (https://www.sqlite.org/rescode.html)."""
    code: int | None = getattr(original(error), "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _checked_path(path: str | os.PathLike[str]) -> Path:
    text = os.fspath(path)
    if not text or text == ":memory:" or text.startswith("file:"):
        raise ConfigurationError(
            f"SqliteBackend needs the path of a file, not {text!r}. For tasks kept in memory use MemoryBackend()."
        )
    if "://" in text:
        # Its text is not shown: it may hold a password.
        raise ConfigurationError(
            "SqliteBackend needs the path of a file, not a URL. A server has a backend of its own, such as "
            "snapshot_backend=PostgresBackend(url)."
        )
    file = Path(text).absolute()
    if not file.parent.is_dir():
        raise ConfigurationError(f"there is no directory {str(file.parent)!r} for the SQLite database. Create it.")
    if file.is_dir():
        raise ConfigurationError(f"{str(file)!r} is a directory. Name a file inside it for the SQLite database.")
    # The write-ahead log and its index are files beside the database.
    for needed in (file.parent, file):
        if needed.exists() and not os.access(needed, os.R_OK | os.W_OK):
            raise ConfigurationError(
                f"this process may not write to {str(needed)!r}. Change its permissions, or give the SQLite database "
                "another path."
            )
    if file.exists() and not _is_database(file):
        raise ConfigurationError(f"{str(file)!r} is not a SQLite database. Give another path.")
    return file


def _is_database(file: Path) -> bool:
    # SQLite looks, because a file that we opened and closed ourselves would take away the locks that its connections of
    # this process hold (https://www.sqlite.org/howtocorrupt.html, section 2.2).
    try:
        with closing(sqlite3.connect(f"file:{quote(os.fsencode(file))}?mode=ro", uri=True, timeout=0)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        # A damaged database, or an error of the moment, is reported when it is opened.
        if _code(error) == sqlite3.SQLITE_NOTADB:
            with file.open("rb") as stream:
                return stream.read(len(_HEADER)) == _HEADER
    return True
