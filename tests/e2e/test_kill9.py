"""What was acknowledged is never lost (G1, G2): a real server is killed with SIGKILL at random moments under load."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.sdk.trace import TracerProvider

from taskflow_otel import TaskAdmin, TaskManager, Telemetry
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.testing import CrashPoint
from taskflow_otel.testing.crashes import VARIABLE
from tests.managers import finish, started
from tests.procs import ROOT, AppProcess
from tests.records import records_in
from tests.waiting import eventually

JOBS = 300
CLIENTS = 24
ENDINGS = {Transition.SUCCEEDED, Transition.FAILED, Transition.CANCELLED, Transition.INTERRUPTED}


class Notes:
    """What the jobs themselves wrote down, outside of the ledger."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def count(self, word: str) -> Counter[str]:
        """How often each task id wrote `word`."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return Counter(line.split()[1] for line in lines if line.startswith(word))


async def send_jobs(url: str, acknowledged: list[str], on_acknowledged: Callable[[], None]) -> None:
    """Post `JOBS` jobs from concurrent clients and collect the ids that came back, until the server is gone."""
    numbers = iter(range(JOBS))
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:

        async def one_client() -> None:
            for number in numbers:
                try:
                    answer = await client.post(f"/jobs/{number}")
                except httpx.TransportError:
                    return
                assert answer.status_code == 200, answer.text
                acknowledged.append(answer.json()["task_id"])
                on_acknowledged()

        await asyncio.gather(*(one_client() for _ in range(CLIENTS)))


async def load_and_kill(server: AppProcess, notes: Notes, moment: int) -> list[str]:
    """Send the jobs and kill the server at `moment`: that many acknowledged, or (beyond `JOBS`) that many begun."""
    acknowledged: list[str] = []
    before = notes.count("begin").total()

    def on_acknowledged() -> None:
        if len(acknowledged) == moment:
            server.kill()

    await send_jobs(server.url, acknowledged, on_acknowledged)
    if moment > JOBS:
        begun = moment - JOBS
        await eventually(
            lambda: notes.count("begin").total() - before >= begun, f"the start of {begun} jobs", interval=0.005
        )
        server.kill()
    return acknowledged


async def all_finished(server: AppProcess) -> None:
    """Wait until the server has nothing left to do."""
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:

        async def idle() -> bool:
            stats = (await client.get("/tasks/stats")).json()
            return bool(stats["pending"] + stats["running"] == 0)

        await eventually(idle, "the end of every task", timeout=60)


async def survive(directory: Path, *, requeue: bool, kills: int, seed: int) -> tuple[set[str], Notes]:
    """Kill the server `kills` times, each time under load, and return the acknowledged ids and the jobs' notes."""
    draw = random.Random(seed)
    notes = Notes(directory / "notes.txt")
    env = {"APP_DB": str(directory / "tasks.db"), "APP_NOTES": str(notes.path), "APP_REQUEUE": str(int(requeue))}
    acknowledged: set[str] = set()
    with AppProcess("tests.apps.kill9_app:app", directory, env=env) as server:
        for _ in range(kills):
            acknowledged.update(await load_and_kill(server, notes, draw.randint(1, 2 * JOBS - 20)))
            server.start()
            await all_finished(server)
        server.terminate()
    return acknowledged, notes


@pytest.mark.parametrize("seed", [2, 20])
async def test_every_acknowledged_task_succeeds_exactly_once_in_the_ledger(tmp_path: Path, seed: int) -> None:
    acknowledged, notes = await survive(tmp_path, requeue=True, kills=10, seed=seed)
    stored = await records_in(tmp_path / "tasks.db")
    begun, ended = notes.count("begin"), notes.count("end")

    assert acknowledged - stored.keys() == set(), "acknowledged, and lost"
    assert begun.keys() - stored.keys() == set(), "ran without being in the ledger"
    assert {record.status for record in stored.values()} == {TaskStatus.SUCCESS}
    assert max(begun.values()) > 1, "no kill came mid-run"
    for task_id, record in stored.items():
        transitions = Counter(entry.transition for entry in record.timeline)
        assert sum(transitions[ending] for ending in ENDINGS) == 1, record.timeline
        assert 1 <= begun[task_id] <= transitions[Transition.STARTED], "ran more often than the ledger knows"
        assert ended[task_id] >= 1
        assert record.retries_used == 0, "an interruption consumed a retry"


async def test_a_task_that_must_not_be_requeued_never_runs_twice(tmp_path: Path) -> None:
    acknowledged, notes = await survive(tmp_path, requeue=False, kills=6, seed=6)
    stored = await records_in(tmp_path / "tasks.db")
    begun, ended = notes.count("begin"), notes.count("end")

    assert acknowledged - stored.keys() == set(), "acknowledged, and lost"
    assert max(begun.values()) == 1
    assert TaskStatus.INTERRUPTED in {record.status for record in stored.values()}, "no kill came mid-run"
    for task_id, record in stored.items():
        assert record.status in {TaskStatus.SUCCESS, TaskStatus.INTERRUPTED}
        if record.status is TaskStatus.SUCCESS:
            assert ended[task_id] == 1
        transitions = Counter(entry.transition for entry in record.timeline)
        assert sum(transitions[ending] for ending in ENDINGS) == 1, record.timeline


SPANS = """
import asyncio, sys
from opentelemetry.sdk.trace import TracerProvider
from taskflow_otel import TaskManager, Telemetry
from taskflow_otel.backends import SqliteBackend
from taskflow_otel.testing import crash_points

provider = TracerProvider(shutdown_on_exit=False)
tracer = provider.get_tracer("test")
manager = TaskManager(
    snapshot_backend=crash_points(SqliteBackend("tasks.db")), telemetry=Telemetry(tracer_provider=provider)
)

@manager.task(persist=True, requeue_on_interrupt=True)
async def charge(life: str) -> None:
    with tracer.start_as_current_span(f"in the {life} life"):
        pass
    tracer.start_span("open")

async def main() -> None:
    await manager.startup()
    with tracer.start_as_current_span("request"):
        task_id = await manager.enqueue(charge, sys.argv[1])
    print(task_id, flush=True)
    await manager.wait(task_id, 30)
    await manager.shutdown()

asyncio.run(main())
"""


async def test_a_kill_leaves_the_spans_of_exactly_those_attempts_whose_outcome_is_stored(tmp_path: Path) -> None:
    def live_until(point: CrashPoint) -> str:
        done = subprocess.run(
            [sys.executable, "-c", SPANS, point], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
            env={**os.environ, "PYTHONPATH": str(ROOT), VARIABLE: point},
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL, done.stderr
        return done.stdout.strip()

    ended, killed = live_until(CrashPoint.AFTER_OUTCOME), live_until(CrashPoint.BEFORE_OUTCOME)
    provider = TracerProvider(shutdown_on_exit=False)
    manager = TaskManager(snapshot_db=tmp_path / "tasks.db", telemetry=Telemetry(tracer_provider=provider))

    @manager.task(persist=True, requeue_on_interrupt=True)
    async def charge(life: str) -> None:
        with provider.get_tracer("test").start_as_current_span("in the last life"):
            pass

    app = FastAPI()
    TaskAdmin(app, manager)
    async with started(manager):
        await finish(manager, killed)
        kept = [(await manager.engine.lookup.spans(task_id)).spans for task_id in (ended, killed)]
        assert [list(spans) for spans in kept] == [[0], [1]]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            bars = {
                task_id: [
                    (bar["name"], bar["attempt"], bar["failed"], (bar["error"] or "").partition(":")[0])
                    for bar in (await client.get(f"/tasks/{task_id}/trace")).json()["bars"]
                    if bar["kind"] != "wait"
                ]
                for task_id in (ended, killed)
            }
    assert bars[ended] == [
        ("request", None, False, ""),
        ("send charge", None, False, ""),
        ("process charge", 0, False, ""),
        ("in the after_outcome life", 0, False, ""),
        ("open", 0, False, ""),
    ]
    assert bars[killed] == [
        ("send charge", None, False, ""),
        ("process charge", 0, True, "ProcessDied"),
        ("process charge", 1, False, ""),
        ("in the last life", 1, False, ""),
    ]
