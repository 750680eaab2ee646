"""A deploy: a real server is told to stop in the middle of everything, and started again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import httpx

from taskflow_otel.backends import SqliteBackend
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TRANSITIONS, TaskStatus, Transition
from tests.procs import AppProcess
from tests.waiting import wait_until

OUTCOMES = {
    Transition.SUCCEEDED: "success",
    Transition.FAILED: "failed",
    Transition.RETRY_SCHEDULED: "failed",
    Transition.CANCELLED: "cancelled",
    Transition.INTERRUPTED: "interrupted",
    Transition.RECOVERED: "interrupted",
}
RUNNING = ["held_async", "held_thread", "held_process", "once", "deaf", "finishing", "narrow"]
WAITING = 20


class Deploy:
    """The app over its lives."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ids: dict[str, str] = {}

    def metrics_path(self, life: int) -> Path:
        return self.directory / f"metrics{life}.json"

    def server(self, life: int) -> AppProcess:
        env = {
            "APP_DB": str(self.directory / "tasks.db"),
            "APP_NOTES": str(self.directory / "notes"),
            "APP_METRICS": str(self.metrics_path(life)),
            "APP_LIFE": str(life),
        }
        return AppProcess("tests.apps.drain_app:app", self.directory, env=env)

    def notes(self) -> Counter[str]:
        """How often each job was entered in each life."""
        path = self.directory / "notes"
        return Counter(path.read_text().splitlines()) if path.exists() else Counter()

    def add(self, url: str, name: str) -> str:
        task_id: str = httpx.post(f"{url}/{name}", timeout=30).raise_for_status().json()
        return task_id

    async def ledger(self) -> dict[str, TaskRecord]:
        """Every stored task, by id."""
        backend = SqliteBackend(self.directory / "tasks.db")
        await backend.open()
        try:
            return {record.task_id: record for record in (await backend.page(TaskQuery(limit=500))).records}
        finally:
            await backend.close()

    def attempts_counted(self) -> Counter[tuple[str, str]]:
        """The attempts of both lives, as their metrics had them at the end."""
        total: Counter[tuple[str, str]] = Counter()
        for life in (1, 2):
            for task, outcome, value in json.loads(self.metrics_path(life).read_text()):
                total[task, outcome] += int(value)
        return +total


def attempts_stored(records: dict[str, TaskRecord]) -> Counter[tuple[str, str]]:
    """The attempts that the ledger tells of."""
    total: Counter[tuple[str, str]] = Counter()
    for record in records.values():
        status: TaskStatus | None = None
        for entry in record.timeline:
            if status is TaskStatus.RUNNING:
                total[record.func_name, OUTCOMES[entry.transition]] += 1
            status = TRANSITIONS[status, entry.transition]
        assert status is record.status
    return total


async def test_a_deploy_in_the_middle_of_everything_keeps_every_promise(tmp_path: Path) -> None:
    deploy = Deploy(tmp_path)
    with deploy.server(life=1) as server:
        first = {name: deploy.add(server.url, name) for name in RUNNING}
        wait_until(lambda: all(deploy.notes()[f"{name} 1"] for name in RUNNING), "every kind of job to run")
        waiting = [deploy.add(server.url, "narrow") for _ in range(WAITING)]
        first["failing"] = deploy.add(server.url, "failing")
        wait_until(lambda: bool(deploy.notes()["failing 1"]), "the failure")
        # One second to finish, one after the cancellation, one for what is abandoned; the rest is a slow machine.
        server.terminate()

    stored = await deploy.ledger()
    expected = {
        "held_async": (TaskStatus.PENDING, "shutdown"),
        "held_thread": (TaskStatus.PENDING, "shutdown"),
        "held_process": (TaskStatus.PENDING, "shutdown"),
        "narrow": (TaskStatus.PENDING, "shutdown"),
        "once": (TaskStatus.INTERRUPTED, "shutdown"),
        "deaf": (TaskStatus.INTERRUPTED, "shutdown"),
        "finishing": (TaskStatus.SUCCESS, None),
        "failing": (TaskStatus.PENDING, "retry_wait"),
    }
    assert {name: (stored[task_id].status, stored[task_id].reason) for name, task_id in first.items()} == expected
    assert {stored[task_id].status for task_id in waiting} == {TaskStatus.PENDING}
    assert [record.retries_used for record in stored.values() if record.func_name != "failing"] == [0] * (7 + WAITING)

    with deploy.server(life=2) as server:

        def idle() -> bool:
            stats = httpx.get(f"{server.url}/tasks/stats", timeout=30).json()
            return bool(stats["pending"] + stats["running"] == 0)

        wait_until(idle, "every promised task to end", timeout=60)
        server.terminate()

    stored = await deploy.ledger()
    promised = [*waiting, *(first[name] for name, (status, _) in expected.items() if status is TaskStatus.PENDING)]
    assert {stored[task_id].status for task_id in promised} == {TaskStatus.SUCCESS}
    assert stored.keys() == {*waiting, *first.values()}
    notes = deploy.notes()
    assert notes["narrow 2"] == 1 + WAITING
    assert {name: notes[f"{name} 2"] for name in RUNNING if name != "narrow"} == {
        "held_async": 1,
        "held_thread": 1,
        "held_process": 1,
        "once": 0,
        "deaf": 0,
        "finishing": 0,
    }
    assert (notes["failing 1"], notes["failing 2"]) == (1, 1)
    assert deploy.attempts_counted() == attempts_stored(stored)
