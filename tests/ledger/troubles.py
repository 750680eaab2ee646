"""What befalls a database while an application runs on it: each begins, and passes."""

from __future__ import annotations

import asyncio
import os
import pwd
import resource
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Literal

import pytest
from redis.asyncio import Redis
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from taskflow_otel.backends import Backend, MySQLBackend, PostgresBackend, RedisBackend, SqliteBackend
from tests.read_only import set_read_only, url_that_obeys
from tests.servers import MariaDBServer, PostgresServer, RedisServer, Server


class Trouble(ABC):
    """A storage, and what can befall it."""

    @abstractmethod
    def backend(self) -> Backend:
        """A backend on the storage, not opened."""

    active = False

    async def begin(self) -> None:
        """From now on nothing can be written."""
        self.active = True
        await self._begin()

    async def end(self) -> None:
        """From now on everything can be written again; harmless to repeat."""
        if self.active:
            self.active = False
            await self._end()

    @abstractmethod
    async def _begin(self) -> None:
        """Begin the trouble of this kind."""

    @abstractmethod
    async def _end(self) -> None:
        """End it."""


class SqliteTrouble(Trouble):
    """A SQLite file in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._made: list[SqliteBackend] = []

    def backend(self) -> SqliteBackend:
        """The backend."""
        self._made.append(SqliteBackend(self.directory / "tasks.db"))
        return self._made[-1]

    async def reconnect(self) -> None:
        """Close the connection that writes: while it is open, a removed permission changes nothing."""
        for backend in self._made:
            if backend._write_engine is not None:
                async with backend._write_engine.connect() as connection:
                    await connection.invalidate()


class DiskFull(SqliteTrouble):
    """Another program fills the disk."""

    async def _begin(self) -> None:
        with (self.directory / "filler").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4_096))
            except OSError:
                return

    async def _end(self) -> None:
        (self.directory / "filler").unlink()


class FileTooLarge(SqliteTrouble):
    """The process has reached the size that a file of it may have (a quota, a limit of the file system)."""

    async def _begin(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_024, self._before[1]))

    async def _end(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


class ReadOnly(SqliteTrouble):
    """The file and its directory lose their write permission."""

    async def _begin(self) -> None:
        self._permit(0o555, 0o444)
        await self.reconnect()

    async def _end(self) -> None:
        self._permit(0o755, 0o644)

    def _permit(self, directory: int, file: int) -> None:
        for path in self.directory.iterdir():
            path.chmod(file)
        self.directory.chmod(directory)


class RedisFull(Trouble):
    """The server has reached its `maxmemory`."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server

    def backend(self) -> Backend:
        return RedisBackend(self.server.url)

    async def _begin(self) -> None:
        await self._limit("1mb")

    async def _end(self) -> None:
        await self._limit("0")

    async def _limit(self, size: str) -> None:
        async with Redis.from_url(self.server.url, protocol=2) as admin:
            await admin.config_set("maxmemory", size)


class ServerKilled(Trouble):
    """The server is killed, and started again."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._url = server.fresh_url()

    def backend(self) -> Backend:
        match self.server:
            case RedisServer():
                return RedisBackend(self._url, timeout=2)
            case PostgresServer():
                return PostgresBackend(self._url, timeout=2)
            case MariaDBServer():
                return MySQLBackend(self._url, timeout=2)
        raise TypeError(self.server)

    async def _begin(self) -> None:
        self.server.kill()

    async def _end(self) -> None:
        await asyncio.to_thread(self.server.start)


class ReadOnlyServer(ServerKilled):
    """The server refuses writes, as one does that a failover has made a replica."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._url = url_that_obeys(server, self._url)

    async def _begin(self) -> None:
        await asyncio.to_thread(set_read_only, self.server, True)

    async def _end(self) -> None:
        await asyncio.to_thread(set_read_only, self.server, False)


class PoolExhausted(Trouble):
    """The only connection of the pool hangs in a table that another program has locked."""

    def __init__(self, kind: type[PostgresBackend] | type[MySQLBackend], url: str) -> None:
        self._kind = kind
        self._url = url
        driver, self._lock = {
            PostgresBackend: ("postgresql+psycopg", "LOCK TABLE taskflow_tasks IN ACCESS EXCLUSIVE MODE"),
            MySQLBackend: ("mysql+aiomysql", "LOCK TABLES taskflow_tasks WRITE"),
        }[kind]
        self._hog = create_async_engine(make_url(url).set(drivername=driver))

    def backend(self) -> Backend:
        return self._kind(self._url, pool_size=1, timeout=2.0)

    async def _begin(self) -> None:
        self._connection = await self._hog.connect()
        await self._connection.exec_driver_sql(self._lock)

    async def _end(self) -> None:
        await self._connection.invalidate()
        await self._connection.close()
        await self._hog.dispose()


@contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    """A file system of four megabytes; skips where none may be mounted."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", directory], check=False)
    if mounted.returncode != 0:
        pytest.skip("no file system may be mounted here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


@contextmanager
def unprivileged() -> Iterator[Path]:
    """A directory of a process for which permissions count: root gives up its privileges in it."""
    directory = Path(tempfile.mkdtemp(prefix="taskflow-plain-"))
    root = os.geteuid() == 0
    if root:
        nobody = pwd.getpwnam("nobody").pw_uid
        os.chown(directory, nobody, -1)
        os.seteuid(nobody)
    try:
        yield directory
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(directory, ignore_errors=True)


Case = Literal[
    "sqlite: disk full", "sqlite: file too large", "sqlite: read-only", "redis: maxmemory", "redis: killed",
    "postgres: killed", "postgres: pool exhausted", "mysql: killed", "mysql: pool exhausted",
    "redis: read-only", "postgres: read-only", "mysql: read-only",
]  # fmt: skip


_SERVERS: dict[str, type[RedisServer] | type[PostgresServer] | type[MariaDBServer]] = {
    "redis": RedisServer, "postgres": PostgresServer, "mysql": MariaDBServer,
}  # fmt: skip


@asynccontextmanager
async def trouble_of(case: Case, request: pytest.FixtureRequest) -> AsyncIterator[Trouble]:
    """The storage and the trouble of one case."""
    match case:
        case "sqlite: disk full":
            with small_disk(request.getfixturevalue("tmp_path")) as disk:
                yield DiskFull(disk)
        case "sqlite: file too large":
            yield FileTooLarge(request.getfixturevalue("tmp_path"))
        case "sqlite: read-only":
            with unprivileged() as directory:
                yield ReadOnly(directory)
        case "redis: maxmemory":
            with RedisServer() as redis:
                yield RedisFull(redis)
        case "redis: killed" | "postgres: killed" | "mysql: killed":
            with _SERVERS[case.partition(":")[0]]() as server:
                yield ServerKilled(server)
        case "redis: read-only" | "postgres: read-only" | "mysql: read-only":
            with _SERVERS[case.partition(":")[0]]() as server:
                yield ReadOnlyServer(server)
        case "postgres: pool exhausted":
            yield PoolExhausted(PostgresBackend, request.getfixturevalue("postgres_url"))
        case "mysql: pool exhausted":
            yield PoolExhausted(MySQLBackend, request.getfixturevalue("mariadb_url"))
