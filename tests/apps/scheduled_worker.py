"""A process with three schedules on a shared backend, until it gets SIGTERM: `python -m tests.apps.scheduled_worker`.

Arguments: the kind of the backend, and its URL or path.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable

from taskflow_otel import TaskManager
from taskflow_otel.backends import Backend, MySQLBackend, PostgresBackend, RedisBackend, SqliteBackend


def make_backend(kind: str, where: str) -> Backend:
    """The backend of a kind."""
    if kind == "sqlite":
        return SqliteBackend(where)
    servers: dict[str, Callable[[str], Backend]] = {
        "postgres": PostgresBackend,
        "mysql": MySQLBackend,
        "redis": RedisBackend,
    }
    return servers[kind](where)


def make_manager(backend: Backend) -> TaskManager:
    """A manager whose schedules leave nothing out."""
    manager = TaskManager(snapshot_backend=backend)

    @manager.schedule(every=0.2, name="fast", catch_up="all", requeue_on_interrupt=True)
    async def fast() -> None: ...

    @manager.schedule(every=1, name="second", catch_up="all", requeue_on_interrupt=True)
    async def second() -> None: ...

    @manager.schedule(cron="* * * * * */2", name="wall", catch_up="all", requeue_on_interrupt=True)
    def wall() -> None: ...

    return manager


async def main(kind: str, where: str) -> None:
    """Run until told to stop."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    manager = make_manager(make_backend(kind, where))
    await manager.startup()
    await stop.wait()
    await manager.shutdown()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
