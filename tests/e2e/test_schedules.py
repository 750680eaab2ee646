"""Three real processes with the same schedules on one backend, killed and restarted: each firing time exactly once."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from taskflow_otel.backends import Backend
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from tests.apps.scheduled_worker import make_backend
from tests.procs import ROOT
from tests.servers import spawn
from tests.waiting import eventually

STEPS = {"fast": timedelta(seconds=0.2), "second": timedelta(seconds=1), "wall": timedelta(seconds=2)}
URLS = {"postgres": "postgres_url", "mysql": "mariadb_url", "redis": "redis_url"}


class Fleet:
    """Processes that share a backend."""

    def __init__(self, kind: str, where: str, directory: Path) -> None:
        self._command = [sys.executable, "-m", "tests.apps.scheduled_worker", kind, where]
        self._directory = directory
        self.members: list[subprocess.Popen[bytes] | None] = [None, None, None]

    def start(self, number: int) -> None:
        """Start a member that is not there."""
        self.members[number] = spawn(self._command, cwd=ROOT, log_path=self._directory / f"{number}.log")

    def end(self, number: int, how: signal.Signals) -> None:
        """Kill a member, or let it end in order."""
        member = self.members[number]
        assert member is not None
        member.send_signal(how)
        code = member.wait(60)
        assert code == (-9 if how is signal.SIGKILL else 0), (self._directory / f"{number}.log").read_text()[-4_000:]
        self.members[number] = None


@pytest.fixture(params=["sqlite", "postgres", "mysql", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    kind: str = request.param
    return kind, str(tmp_path / "tasks.db") if kind == "sqlite" else request.getfixturevalue(URLS[kind])


@pytest.fixture
async def backend(place: tuple[str, str]) -> AsyncIterator[Backend]:
    backend = make_backend(*place)
    await backend.open()
    yield backend
    await backend.close()


@pytest.fixture
def fleet(place: tuple[str, str], tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(*place, tmp_path)
    yield fleet
    for member in fleet.members:
        if member is not None:
            member.kill()
            member.wait()


async def runs(backend: Backend) -> list[TaskRecord]:
    """Every task of the schedules."""
    found: list[TaskRecord] = []
    cursor = None
    while True:
        page = await backend.page(TaskQuery(source="scheduled", limit=500, cursor=cursor))
        found += page.records
        if (cursor := page.next_cursor) is None:
            return found


async def test_each_firing_time_runs_once_over_kills_and_restarts(backend: Backend, fleet: Fleet) -> None:
    async def number() -> int:
        return (await backend.counts(TaskQuery(source="scheduled"))).total

    async def more(runs: int) -> None:
        wanted = await number() + runs

        async def enough() -> bool:
            return await number() >= wanted

        await eventually(enough, f"{runs} further runs", timeout=90, interval=0.1)

    for member in range(3):
        fleet.start(member)
    await more(5)
    for member, how in ((0, signal.SIGKILL), (1, signal.SIGTERM), (2, signal.SIGKILL)):
        fleet.end(member, how)
        await more(8)
        fleet.start(member)
        await more(4)
    for member in range(3):
        fleet.end(member, signal.SIGKILL)
    # Nothing runs for a moment, and what was due then is caught up.
    fleet.start(0)
    await more(10)

    async def all_ended() -> bool:
        fired = await runs(backend)
        newest = max(record.created_at for record in fired)
        return all(r.status.finished for r in fired if r.created_at < newest - timedelta(seconds=1))

    await eventually(all_ended, "what the killed ones left to be run", timeout=60, interval=0.2)
    fleet.end(0, signal.SIGTERM)
    records = await runs(backend)
    for name, step in STEPS.items():
        moments = sorted(moment_of(record) for record in records if record.func_name == name)
        assert Counter(moments).most_common(1)[0][1] == 1
        assert moments == [moments[0] + n * step for n in range(len(moments))]
    left = [record for record in records if not record.status.finished]
    assert {record.status for record in records if record not in left} == {TaskStatus.SUCCESS}
    assert len(left) <= 3


def moment_of(record: TaskRecord) -> datetime:
    assert record.run_at is not None
    return record.run_at
