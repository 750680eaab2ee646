"""The lower bounds of the dependencies: which they are, and a run of each feature with exactly these versions.

python -m tests.floors list        # NAME==VERSION of each dependency, the core and all extras but `otel`
python -m tests.floors run         # in an environment with these: a task on each backend, and each extra
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
import tomllib
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BESIDE = {"dev", "docs", "all", "otel"}
"""Extras that are no features; and `otel`, whose SDK needs a newer API than the core does."""


def floors() -> dict[str, str]:
    """The lowest version of each dependency, by its name with its own extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = list(project["dependencies"])
    for extra, dependencies in project["optional-dependencies"].items():
        listed += [] if extra in BESIDE else dependencies
    found: dict[str, str] = {}
    for entry in listed:
        named = re.fullmatch(r"([\w.\[\]-]+)(?:>=([\w.]+))?(?:,.*)?", entry)
        assert named is not None, entry
        if named[2] is not None:
            # Of two bounds, the extra's is the higher one.
            found[named[1]] = max(named[2], found.get(named[1], ""), key=_order)
    return found


def _order(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


async def _one_task(**options: Any) -> None:
    from taskflow_otel import TaskManager, TaskStatus

    manager = TaskManager(**options)
    given: list[datetime] = []

    @manager.task(retries=1, persist=True)
    async def keep(moment: datetime) -> None:
        given.append(moment)

    @manager.schedule(cron="0 3 * * *")
    def nightly() -> None: ...

    await manager.startup()
    try:
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        record = await manager.wait(await manager.enqueue(keep, moment), 30)
        assert (record.status, given) == (TaskStatus.SUCCESS, [moment])
        assert [one.task_id for one in await manager.find()] == [record.task_id]
    finally:
        await manager.shutdown()


async def _in_a_process() -> None:
    from taskflow_otel import TaskManager, TaskStatus

    manager = TaskManager(max_process_workers=1)

    def where() -> None:
        print("in a process")

    task = manager.task(executor="process")(where)
    await manager.startup()
    try:
        record = await manager.wait(await manager.enqueue(task), 60)
        assert record.status is TaskStatus.SUCCESS, record.error
    finally:
        await manager.shutdown()


async def _on_celery(database: Path) -> None:
    from celery import Celery, signals
    from celery.contrib.testing.worker import start_worker

    from taskflow_otel import QueueConfig, TaskManager, TaskStatus
    from taskflow_otel.celery import install

    web, far = (
        TaskManager(snapshot_db=database, queues={"far": QueueConfig(run="celery", celery_queue="work")})
        for _ in range(2)
    )
    app = Celery("floors", broker="memory://")
    app.conf.task_default_queue = "work"
    install(Celery("web", broker="memory://", set_as_current=False), web)
    install(app, far)

    def where() -> None: ...

    for manager in (web, far):
        manager.task(queue="far", persist=True, name="where")(where)
    await web.startup()
    try:
        worker = start_worker(app, pool="solo", perform_ping_check=False, loglevel="WARNING")
        await asyncio.to_thread(worker.__enter__)
        try:
            record = await web.wait(await web.enqueue(where), 60)
        finally:
            await asyncio.to_thread(worker.__exit__, None, None, None)
            # The worker of the tests ends cold, which sends no signal.
            await asyncio.to_thread(signals.worker_shutdown.send, sender=app)
        assert record.status is TaskStatus.SUCCESS, record.error
        assert record.instance == far.engine.instance_id != web.engine.instance_id
    finally:
        await web.shutdown()


def run() -> None:
    """A task on each backend, in a process and on Celery; raises the first error."""
    from cryptography.fernet import Fernet

    from taskflow_otel.backends import MySQLBackend, PostgresBackend, RedisBackend
    from taskflow_otel.cli.main import main
    from tests.servers import MariaDBServer, PostgresServer, RedisServer

    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        servers = [stack.enter_context(kind()) for kind in (RedisServer, PostgresServer, MariaDBServer)]
        redis, postgres, mariadb = (server.fresh_url() for server in servers)
        checks: dict[str, Callable[[], Awaitable[None]]] = {
            "memory": _one_task,
            "sqlite, encrypted": lambda: _one_task(
                snapshot_db=Path(directory) / "tasks.db", encrypt_args_key=Fernet.generate_key()
            ),
            "redis": lambda: _one_task(snapshot_backend=RedisBackend(redis)),
            "postgres": lambda: _one_task(snapshot_backend=PostgresBackend(postgres)),
            "mysql": lambda: _one_task(snapshot_backend=MySQLBackend(mariadb)),
            "process": _in_a_process,
            "celery": lambda: _on_celery(Path(directory) / "far.db"),
        }
        for name, check in checks.items():
            asyncio.run(check())  # type: ignore[arg-type]
            print(f"{name}: works")
        assert main(["ls", "--backend", str(Path(directory) / "tasks.db")]) == 0
        print("the command: works")


if __name__ == "__main__":
    if sys.argv[1:] == ["list"]:
        print("\n".join(f"{name}=={version}" for name, version in floors().items()))
    else:
        run()
