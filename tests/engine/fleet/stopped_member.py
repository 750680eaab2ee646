"""A member of a fleet that is stopped (SIGSTOP) inside a transaction: `python -m … {firing|heartbeat} {kind} {url}`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import psycopg
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from taskflow_otel import TaskManager
from taskflow_otel.backends import MySQLBackend, PostgresBackend

LEASE = 3.0
_MARKS = {"firing": "INSERT", "heartbeat": "UPDATE"}
_TABLES = {"firing": "taskflow_used_once", "heartbeat": "taskflow_instances"}


def make_manager(kind: str, url: str) -> tuple[TaskManager, Any]:
    """A manager of this fleet, and its task; its schedule fires each second."""
    backend = PostgresBackend(url) if kind == "postgres" else MySQLBackend(url)
    manager = TaskManager(snapshot_backend=backend, lease_seconds=LEASE)

    @manager.schedule(every=1.0, name="tick")
    async def tick() -> None: ...

    @manager.task(name="held", persist=True, requeue_on_interrupt=True)
    async def held() -> None:
        if "stopped_member" in sys.argv[0]:
            await asyncio.Event().wait()

    return manager, held


def stop_before_commit(where: str) -> None:
    """Stop this process before the commit of the first transaction that has written there."""
    written = set[int]()
    execute = psycopg.AsyncCursor.execute

    def is_meant(statement: object) -> bool:
        text = str(statement)
        return _TABLES[where] in text and text.lstrip().upper().startswith(_MARKS[where])

    @event.listens_for(Engine, "after_cursor_execute")
    def notice(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if is_meant(statement):
            written.add(id(connection.connection.driver_connection))

    async def notice_batch(cursor: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        # Batches on PostgreSQL go to the driver directly.
        if is_meant(query):
            written.add(id(cursor.connection))
        if str(query).endswith("; COMMIT"):
            stop_one_of(cursor.connection)
        return await execute(cursor, query, *args, **kwargs)

    psycopg.AsyncCursor.execute = notice_batch  # type: ignore[assignment,method-assign]

    def stop_one_of(connection: object) -> None:
        if id(connection) in written:
            _say("stopped")
            os.kill(os.getpid(), signal.SIGSTOP)

    @event.listens_for(Engine, "commit")
    def stop(connection: Connection) -> None:
        stop_one_of(connection.connection.driver_connection)


def _say(word: str) -> None:
    os.write(1, f"{word}\n".encode())


async def main(where: str, kind: str, url: str) -> None:
    """Have a task that runs, and stop."""
    manager, held = make_manager(kind, url)
    await manager.startup()
    inside = await manager.enqueue(held)
    _say(inside)
    while (await manager.get(inside)).status != "running":
        await asyncio.sleep(0.01)
    stop_before_commit(where)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
