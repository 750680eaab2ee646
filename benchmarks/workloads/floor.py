"""The floor of a persisted task: its three writes, committed together by one writer thread on the bare driver.

Producers on an event loop ask for an insert, a start mark and an outcome, each after the one before is committed.
Everything that waits when the writer is free goes into one transaction, synchronised with the disk.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.workloads import Run
from benchmarks.workloads.producers import produce

_CREATE = """CREATE TABLE tasks (
    task_id TEXT PRIMARY KEY, func_name TEXT NOT NULL, queue TEXT NOT NULL, status TEXT NOT NULL, owner TEXT NOT NULL,
    token INTEGER NOT NULL, payload TEXT, created_at INTEGER NOT NULL, start_time INTEGER, end_time INTEGER,
    timeline TEXT
) WITHOUT ROWID"""
_INSERT = "INSERT INTO tasks VALUES (?, ?, ?, 'pending', ?, ?, ?, ?, NULL, NULL, ?)"
_START = "UPDATE tasks SET status = 'running', start_time = ?, timeline = ? WHERE task_id = ? AND token = ?"
_END = "UPDATE tasks SET status = 'success', end_time = ?, timeline = ? WHERE task_id = ? AND token = ?"
_STATEMENTS = (_INSERT, _START, _END)
_LINE = '[["enqueued",1767225600000000,0,"host-1"]'


class _Writer(threading.Thread):
    """Takes what has been asked for, all at once."""

    def __init__(self, database: Path, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name="floor", daemon=True)
        self._database = database
        self._loop = loop
        self._lock = threading.Condition()
        self._asked: tuple[list[Any], ...] = ([], [], [])
        self._futures: list[asyncio.Future[None]] = []
        self._ending = False

    def ask(self, statement: int, row: tuple[Any, ...]) -> asyncio.Future[None]:
        """Have a row written; the future is done when it is committed."""
        future: asyncio.Future[None] = self._loop.create_future()
        with self._lock:
            self._asked[statement].append(row)
            self._futures.append(future)
            self._lock.notify()
        return future

    def end(self) -> None:
        """Let it finish."""
        with self._lock:
            self._ending = True
            self._lock.notify()
        self.join()

    def run(self) -> None:
        """See `threading.Thread`."""
        connection = sqlite3.connect(self._database, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(_CREATE)
        connection.execute("CREATE INDEX by_status ON tasks (status, created_at)")
        while True:
            with self._lock:
                while not (self._futures or self._ending):
                    self._lock.wait()
                if not self._futures:
                    break
                asked, self._asked = self._asked, ([], [], [])
                futures, self._futures = self._futures, []
            connection.execute("BEGIN IMMEDIATE")
            for statement, rows in zip(_STATEMENTS, asked, strict=True):
                if rows:
                    connection.executemany(statement, rows)
            connection.execute("COMMIT")
            self._loop.call_soon_threadsafe(_release, futures)
        connection.close()


def _release(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        future.set_result(None)


@asynccontextmanager
async def floor(directory: Path) -> AsyncIterator[Run]:
    """Insert, start mark and outcome of each task."""
    writer = _Writer(directory / "floor.db", asyncio.get_running_loop())
    writer.start()

    async def one() -> None:
        task_id = str(uuid.uuid4())
        await writer.ask(
            0, (task_id, "nothing", "default", "host-1", 1, '{"v":1}', time.time_ns() // 1_000, _LINE + "]")
        )
        await writer.ask(1, (time.time_ns() // 1_000, _LINE + ',["started",1767225600000000,0,"host-1"]]', task_id, 1))
        await writer.ask(2, (time.time_ns() // 1_000, _LINE * 3, task_id, 1))

    try:
        yield lambda number: produce(number, one)
    finally:
        writer.end()
