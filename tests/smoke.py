"""What an installed wheel does, outside the checkout: the quick start, the page, and each extra or its error.

python smoke.py core|EXTRA      # in an environment with the wheel and one extra; `.ci/smoke` runs it in each of them
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import BackgroundTasks, FastAPI

import taskflow_otel
from taskflow_otel import MissingExtraError, TaskAdmin, TaskManager, TaskStatus, task_log
from taskflow_otel.cli.main import main

MORE = {"cli": {"client"}, "mysql": {"encryption"}}
"""What an extra brings besides itself, because its packages are also those of another one."""
HASH = "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b6dWRWJTmaasRRmz0zHzn2CYw4"
_NOTHING = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}


def work() -> None:
    """A task."""


async def ask(app: FastAPI, method: str, path: str) -> tuple[int, bytes]:
    """Status and body of an answer: no client is installed, so the application is called as a server does."""
    status, body = 0, b""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        nonlocal status, body
        status = message.get("status", status)
        body += message.get("body", b"")

    place, _, query = path.partition("?")
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": place, "raw_path": place.encode(), "query_string": query.encode(), "root_path": "",
        "headers": [(b"host", b"127.0.0.1")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "state": {},
    }  # fmt: skip
    await app(scope, receive, send)
    return status, body


async def quick_start(directory: Path) -> None:
    """A route with a task that fails once and is kept, and the page with all that it asks for."""
    app = FastAPI()
    task_manager = TaskManager(snapshot_db=directory / "tasks.db")
    TaskAdmin(app, task_manager, auto_install=True)

    @task_manager.task(retries=1, persist=True)
    def send_email(address: str) -> None:
        context = taskflow_otel.get_task_context()
        if context is not None and context.attempt == 0:
            raise ConnectionError("no answer")
        task_log(f"sent to {address}")

    # The annotations of a function inside another one are looked up in its module.
    async def signup(email: str, background_tasks: BackgroundTasks) -> None:
        background_tasks.add_task(send_email, email)

    app.post("/signup")(signup)
    async with app.router.lifespan_context(app):
        assert (await ask(app, "POST", "/signup?email=ada@example.com"))[0] == 200
        [record] = await task_manager.find()
        record = await task_manager.wait(record.task_id, 30)
        assert (record.status, record.retries_used) == (TaskStatus.SUCCESS, 1), record
        status, page = await ask(app, "GET", "/tasks/dashboard")
        assert status == 200
        parts = {part for part in re.findall(r'(?:src|href)="([^"#]+)"', page.decode()) if "static" in part}
        assert parts, page
        for part in parts:
            found = await ask(app, "GET", f"/tasks/{part}" if not part.startswith("/") else part)
            assert found[0] == 200, part
        assert b"taskflow_build_info" in (await ask(app, "GET", "/tasks/metrics"))[1]


async def in_a_process() -> None:
    """A function of the main program, which plain pickle cannot send to a process."""
    manager = TaskManager(max_process_workers=1)
    task = manager.task(executor="process", name="local")(lambda: None)
    await manager.startup()
    try:
        record = await manager.wait(await manager.enqueue(task), 60)
        if record.error_type == "MissingExtraError":
            raise MissingExtraError("a process", "process")
        assert record.status is TaskStatus.SUCCESS, record.error
    finally:
        await manager.shutdown()


def observe() -> None:
    """Spans, metrics and logs."""
    os.environ.update(_NOTHING)
    taskflow_otel.configure_telemetry(FastAPI(), service_name="smoke")


def run_worker() -> None:
    """A worker of an application that does not exist, which is known once the server is there."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert main(["worker", "no_such_module:app"]) == 2
    if "pip install" in said.getvalue():
        assert "pip install 'taskflow-otel[worker]'" in said.getvalue()
        raise MissingExtraError("the worker", "worker")
    assert "there is no module" in said.getvalue()


def backend(name: str, url: str) -> Callable[[], object]:
    """Opens nothing: the driver is looked for when the object is made."""
    return lambda: getattr(taskflow_otel.backends, name)(url)


def ask_application() -> None:
    """The client for programs."""
    from taskflow_otel.client import Client

    Client("http://127.0.0.1:1/tasks").close()


def ask_without_a_driver(installed: bool) -> None:
    """A command on a backend whose extra may be missing: a sentence and status 2, which no difference has."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert main(["reconcile", "--backend", "redis://127.0.0.1:1/0"]) == 2
    [sentence] = said.getvalue().splitlines()
    assert ("pip install 'taskflow-otel[redis]'" in sentence) is not installed, sentence


def ring_for_celery() -> None:
    """The other engine."""
    import taskflow_otel.celery  # noqa: F401


FEATURES: dict[str, Callable[[], object]] = {
    "otel": observe,
    "redis": backend("RedisBackend", "redis://127.0.0.1:1/0"),
    "postgres": backend("PostgresBackend", "postgresql://127.0.0.1:1/x"),
    "mysql": backend("MySQLBackend", "mysql://127.0.0.1:1/x"),
    "scheduler": lambda: TaskManager().schedule(cron="0 3 * * *")(work),
    "encryption": lambda: TaskManager(encrypt_args_key="A" * 43 + "="),
    "process": lambda: asyncio.run(in_a_process()),
    "passwords": lambda: TaskAdmin(FastAPI(), TaskManager(), auth=[("ada", HASH)]),
    "client": ask_application,
    "worker": run_worker,
    "celery": ring_for_celery,
}


def run(extra: str) -> None:
    """The quick start; then each feature works if its extra is there, or else says what to install."""
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(quick_start(Path(directory)))
        assert main(["ls", "--backend", str(Path(directory) / "tasks.db")]) == 0
        assert main(["dashboards", "export", str(Path(directory) / "stack")]) == 0
    there = {extra, *MORE.get(extra, ())}
    ask_without_a_driver("redis" in there)
    for name, feature in FEATURES.items():
        said = ""
        try:
            feature()
        except MissingExtraError as missing:
            said = str(missing)
        expected = "" if name in there else f"pip install 'taskflow-otel[{name}]'"
        assert (expected in said, bool(expected)) == (True, bool(said)), f"{name}: {said or 'works without its extra'}"
    print(f"{extra}: the quick start, the page, {len(FEATURES)} features or their errors")


if __name__ == "__main__":
    run(sys.argv[1])
