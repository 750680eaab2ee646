"""An instance that is stopped in the middle of a transaction: a real process, on real servers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskflow_otel import TaskStatus
from tests.engine.fleet.stopped_member import LEASE, make_manager
from tests.managers import started
from tests.servers import spawn
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]


@pytest.fixture(params=["postgres", "mariadb"])
def database(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Kind and URL of an empty database."""
    return request.param, request.getfixturevalue(f"{request.param}_url")


class Member:
    """A process that stops itself inside a transaction."""

    def __init__(self, where: str, database: tuple[str, str], log_path: Path) -> None:
        self._log_path = log_path
        command = [sys.executable, "-m", "tests.engine.fleet.stopped_member", where, *database]
        self.process: subprocess.Popen[bytes] = spawn(command, cwd=ROOT, log_path=log_path)

    def said(self) -> list[str]:
        """What it has printed."""
        return self._log_path.read_text().split() if self._log_path.exists() else []


@pytest.fixture
def member(request: pytest.FixtureRequest, database: tuple[str, str], tmp_path: Path) -> Iterator[Member]:
    """A member that is stopped where the test says, and holds a running task."""
    member = Member(request.param, database, tmp_path / "member.log")
    try:
        ended = member.process.poll
        wait_until(lambda: "stopped" in member.said() or ended() is not None, f"the stop inside a {request.param}")
        assert ended() is None, member.said()
        yield member
    finally:
        member.process.kill()
        member.process.wait()


@pytest.mark.parametrize("member", ["firing", "heartbeat"], indirect=True)
async def test_one_that_is_stopped_inside_a_transaction_holds_nobody_up_and_is_taken_over(
    member: Member, database: tuple[str, str]
) -> None:
    manager, held = make_manager(*database)
    async with started(manager):
        # A commit that takes longer than five seconds is refused, and raises here.
        for _ in range(20):
            await manager.wait(await manager.enqueue(held), timeout=60)
        record = await manager.wait(member.said()[0], timeout=10 * LEASE)
    assert record.status is TaskStatus.SUCCESS
    assert record.crashes == 1
