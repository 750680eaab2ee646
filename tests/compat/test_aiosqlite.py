"""What `compat.aiosqlite` relies on. Seen in aiosqlite 0.22.1."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import aiosqlite

from taskflow_otel.compat.aiosqlite import ScriptConnection, run_script
from tests.compat.shapes import Shape

SHAPE = Shape("aiosqlite", "0.22.1")


class Work:
    """Notes the thread in which it was executed."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []

    def execute(self, connection: sqlite3.Connection) -> sqlite3.Cursor:
        self.threads.append(threading.current_thread())
        return connection.execute("CREATE TABLE made (number)")


async def test_a_script_is_executed_once_in_the_thread_of_the_connection(tmp_path: Path) -> None:
    work = Work()
    async with aiosqlite.connect(tmp_path / "a.db", factory=ScriptConnection) as connection:
        await run_script(connection, work)
        await connection.executescript("INSERT INTO made VALUES (1)")
        async with connection.execute("SELECT number FROM made") as cursor:
            rows = list(await cursor.fetchall())
    SHAPE.holds(
        len(work.threads) == 1 and work.threads[0] is not threading.current_thread() and rows == [(1,)],
        "Connection.executescript in aiosqlite/core.py no longer hands what it is given to the connection that "
        "`factory` made, in one call in its thread.",
    )
