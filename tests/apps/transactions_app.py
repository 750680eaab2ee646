"""A program that adds tasks in transactions of its own, and kills itself at a named point.

Each transaction also stores an order. Half of them are rolled back. A task notes its order in a file.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Collection
from typing import Any

from sqlalchemy import Column, Integer, MetaData, Table, insert, select
from sqlalchemy.orm import Session

from taskflow_otel import ManagedBackgroundTasks, TaskManager, TaskStatus
from taskflow_otel.backends import MySQLBackend, PostgresBackend, SqliteBackend
from taskflow_otel.backends.pool import Claimed
from taskflow_otel.model.query import TaskQuery
from tests.callers import KINDS, Database

POINTS = ("before the commit", "after the commit", "before the claim", "after the claim")
ORDERS = Table("orders", MetaData(), Column("id", Integer, primary_key=True, autoincrement=False))


def backend_of(url: str) -> Any:
    """The ledger on a database."""
    if url.startswith("sqlite"):
        return SqliteBackend(url.removeprefix("sqlite:///"))
    return PostgresBackend(url) if url.startswith("postgresql") else MySQLBackend(url)


class Killer:
    """Kills this process at its point, once this number of transactions has committed, and notes where it was."""

    def __init__(self, point: str, after: int) -> None:
        self.left = after
        self.point = point
        self.kind = ""
        self._notes = _appending(os.environ["APP_KILLS"])

    def reach(self, point: str) -> None:
        if point == self.point and self.left <= 0:
            os.write(self._notes, f"{point}, {self.kind}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    @property
    def awaits_claim(self) -> bool:
        """Whether the next claim kills this process."""
        return self.left <= 0 and self.point.endswith("claim")

    def committed(self) -> None:
        self.left -= 1
        self.reach("after the commit")


def _appending(path: str) -> int:
    # A short line that is appended is whole, and survives the process.
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


async def main(url: str, first: int, count: int, point: str, after: int) -> None:
    database, backend = Database(url), backend_of(url)
    manager = TaskManager(snapshot_backend=backend, requeue_pending=True)
    killer = Killer(point, after)
    notes, added = _appending(os.environ["APP_NOTES"]), _appending(os.environ["APP_ADDED"])

    @manager.task(requeue_on_interrupt=True)
    async def ship(order: int) -> None:
        os.write(notes, f"{order}\n".encode())

    store = backend.transaction_store
    claim = store.claim

    async def claims(owner: str, ids: Collection[str]) -> list[Claimed]:
        killer.reach("before the claim")
        claimed: list[Claimed] = await claim(owner, ids)
        killer.reach("after the claim")
        return claimed

    store.claim = claims
    async with database.async_engine.begin() as connection:
        await connection.run_sync(ORDERS.create, checkfirst=True)
    await manager.startup()
    for number in range(first, first + count):
        killer.kind = kind = KINDS[number % len(KINDS)]
        os.write(added, f"{number}\n".encode())
        if kind.startswith("Async"):
            async with database.open(kind) as caller:
                await caller.execute(insert(ORDERS).values(id=number))
                await manager.enqueue(ship, number, session=caller.handle)
                killer.reach("before the commit")
                if number % 8 < 4:
                    await caller.commit()
                    killer.committed()
        else:
            await asyncio.to_thread(in_a_thread, manager, ship, database, killer, number)
        while killer.awaits_claim and not await done(manager, database):
            # With more commits before that claim, too few would be left for the other points.
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.05)
    while not point and not await done(manager, database):
        await asyncio.sleep(0.05)
    await manager.shutdown()
    await database.close()


def in_a_thread(manager: TaskManager, ship: Any, database: Database, killer: Killer, number: int) -> None:
    """One transaction of a plain session or connection, as a `def` route has it."""
    plain = Session(database.engine) if KINDS[number % len(KINDS)] == "Session" else database.engine.connect()
    with plain as session:
        session.execute(insert(ORDERS).values(id=number))
        ManagedBackgroundTasks(manager).add_task(ship, number, session=session)
        killer.reach("before the commit")
        if number % 8 < 4:
            session.commit()
            killer.committed()


async def done(manager: TaskManager, database: Database) -> bool:
    """Whether each committed order has a finished task."""
    async with database.async_engine.connect() as connection:
        orders = len((await connection.execute(select(ORDERS.c.id))).all())
    return (await manager.engine.lookup.counts(TaskQuery())).by_status.get(TaskStatus.SUCCESS, 0) >= orders


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5])))
