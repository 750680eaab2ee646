"""SIGTERM while tasks run, under each server that people deploy with: what can finish does, and the rest is kept."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from taskflow_otel.backends import SqliteBackend
from taskflow_otel.model.query import TaskQuery
from tests.procs import AppProcess
from tests.waiting import wait_until

GUNICORN = ("gunicorn", "{app}", "-b", "{address}", "-k", "uvicorn_worker.UvicornWorker", "--log-level", "warning")
SERVERS = {
    "uvicorn": ("uvicorn", "{app}", "--host", "127.0.0.1", "--port", "{port}", "--loop", "uvloop"),
    "uvicorn with workers": ("uvicorn", "{app}", "--host", "127.0.0.1", "--port", "{port}", "--workers", "2"),
    "gunicorn": (*GUNICORN, "-w", "2"),
    "gunicorn --preload": (*GUNICORN, "-w", "2", "--preload"),
    "hypercorn": ("hypercorn", "{app}", "-b", "{address}"),
    "granian": ("granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", "{port}", "{app}"),
}
ENDS = {"finishing": ("success", None), "held_async": ("pending", "shutdown"), "once": ("interrupted", "shutdown")}
"""Status and reason of each task after the drain: persisted ones that may run again wait for the next start."""


class Server(AppProcess):
    """The app of drains under one of the servers."""

    def __init__(self, arguments: Sequence[str], directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        env = {
            "APP_DB": str(directory / "tasks.db"),
            "APP_NOTES": str(directory / "notes"),
            "APP_METRICS": str(directory / "metrics"),
            "APP_LIFE": "1",
        }
        super().__init__("tests.apps.drain_app:app", directory, env=env, arguments=arguments)

    def command(self) -> Sequence[str]:
        address = f"127.0.0.1:{self.port}"
        filled = [word.format(app=self.app, address=address, port=self.port) for word in self.arguments]
        return [sys.executable, "-m", *filled]

    def notes(self) -> set[str]:
        path = self.directory / "notes"
        return set(path.read_text().split()) if path.exists() else set()


class Ended(NamedTuple):
    """What was acknowledged, and what the server printed."""

    ids: dict[str, str]
    output: str


def drained(server: Server) -> Ended:
    """Start the server, stop it while its tasks run, and see it end in order; raises if it does not."""
    with server:
        ids = {}
        for name in ENDS:
            ids[name] = str(httpx.post(f"{server.url}/{name}", timeout=60).raise_for_status().json())
        wait_until(lambda: ENDS.keys() <= server.notes(), f"the tasks under {server.arguments[0]}", timeout=60)
        server.terminate(timeout=60)
    return Ended(ids, server.output)


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Ended]]:
    """How each server ended; all of them run side by side."""
    place = tmp_path_factory.mktemp("servers")
    servers = {name: Server(words, place / str(number)) for number, (name, words) in enumerate(SERVERS.items())}
    with ThreadPoolExecutor(len(servers)) as pool:
        found = dict(zip(servers, pool.map(drained, servers.values()), strict=True))
    return {name: (server.directory / "tasks.db", found[name]) for name, server in servers.items()}


@pytest.mark.parametrize("name", SERVERS)
async def test_a_server_that_is_stopped_loses_no_task(ends: dict[str, tuple[Path, Ended]], name: str) -> None:
    database, (ids, output) = ends[name]
    backend = SqliteBackend(database)
    await backend.open()
    try:
        stored = {record.task_id: record for record in (await backend.page(TaskQuery())).records}
    finally:
        await backend.close()
    assert stored.keys() == set(ids.values())
    assert {name: (stored[one].status.value, stored[one].reason) for name, one in ids.items()} == ENDS
    assert "Traceback" not in output
