"""What was acknowledged is never lost (G1, G2): a real server is killed with SIGKILL at random moments under load."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from taskflow_otel.model.status import TaskStatus, Transition
from tests.procs import AppProcess
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
