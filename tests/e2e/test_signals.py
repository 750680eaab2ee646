"""A real server that is told to stop: once, twice and three times."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import pytest

from tests.procs import AppProcess
from tests.waiting import wait_until

PLAIN = 20


@pytest.fixture
def server(tmp_path: Path) -> AppProcess:
    return AppProcess("tests.apps.stop_app:app", tmp_path, env={"APP_DIRECTORY": str(tmp_path)})


def alive(pid: int) -> bool:
    """Whether a child of this process has not ended."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def test_tasks_that_are_not_persisted_run_within_the_shutdown_timeout(server: AppProcess, tmp_path: Path) -> None:
    with server:
        httpx.post(f"{server.url}/plain/{PLAIN}", timeout=30).raise_for_status()
        server.terminate()
    assert (tmp_path / "ran").read_text().split() == [str(number) for number in range(PLAIN)]
    assert "gave up" not in server.output


@pytest.mark.parametrize("deaf", [False, True])
def test_a_second_interrupt_cuts_the_drain_short_and_a_third_the_grace(
    server: AppProcess, tmp_path: Path, deaf: bool
) -> None:
    """The drain and the grace are 60 s each, longer than this test waits."""
    with server:
        httpx.post(f"{server.url}/endless", params={"deaf": deaf}, timeout=30).raise_for_status()
        httpx.post(f"{server.url}/plain/{PLAIN}", timeout=30).raise_for_status()
        wait_until((tmp_path / "inside").exists, "the task to begin")
        os.kill(server.pid, signal.SIGINT)
        wait_until((tmp_path / "stopping").exists, "the server to stop")
        # The handler of the drain follows the application's own shutdown at once; signals before it are uvicorn's.
        wait_until(lambda: interrupted(server, tmp_path / "asked"), "the task to be cancelled", interval=0.2)
        if deaf:
            wait_until(lambda: interrupted(server), "the server to end", interval=0.2)
        wait_until(lambda: not alive(server.pid), "the server to end")
    assert f"gave up {PLAIN} waiting tasks that are not persisted" in server.output
    assert f"plain ({PLAIN})" in server.output
    assert not (tmp_path / "ran").exists()


def interrupted(server: AppProcess, sign: Path | None = None) -> bool:
    """Send SIGINT once more unless there is the sign, or no server any more."""
    if (sign is not None and sign.exists()) or not alive(server.pid):
        return True
    os.kill(server.pid, signal.SIGINT)
    return False
