"""A process dies at the moment that was named, and nowhere else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from taskflow_otel import ConfigurationError
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.testing import CrashPoint, crash_points
from taskflow_otel.testing.crashes import VARIABLE

ROOT = Path(__file__).parents[2]
PROGRAM = """
import asyncio
from pathlib import Path
from taskflow_otel import TaskManager
from taskflow_otel.backends import SqliteBackend
from taskflow_otel.testing import crash_points

manager = TaskManager(snapshot_backend=crash_points(SqliteBackend("tasks.db")))

@manager.task(persist=True)
async def work() -> None:
    print("ran", flush=True)

@manager.task()
async def history() -> None: ...

async def main() -> None:
    await manager.startup()
    await manager.wait(await manager.enqueue(history), 30)
    task_id = await manager.enqueue(work)
    print("acknowledged", flush=True)
    await manager.wait(task_id, 30)
    print("ended", flush=True)
    await manager.shutdown()

asyncio.run(main())
"""
SAID: dict[CrashPoint, set[str]] = {
    CrashPoint.BEFORE_COMMIT: set(),
    CrashPoint.AFTER_COMMIT: set(),
    CrashPoint.BEFORE_START: {"acknowledged"},
    CrashPoint.AFTER_START: {"acknowledged"},
    CrashPoint.BEFORE_OUTCOME: {"acknowledged", "ran"},
    CrashPoint.AFTER_OUTCOME: {"acknowledged", "ran"},
}
"""What the program has said when it dies."""


@pytest.mark.parametrize("point", [*CrashPoint, None])
def test_the_process_dies_there(point: CrashPoint | None, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), VARIABLE: point or ""},
    )  # fmt: skip
    if point is None:
        assert (done.returncode, done.stdout.split()) == (0, ["acknowledged", "ran", "ended"])
        return
    assert done.returncode == -signal.SIGKILL, done.stderr
    # Whether the function was entered after its start was stored is a race.
    entered = {"ran"} if point is CrashPoint.AFTER_START else set[str]()
    assert set(done.stdout.split()) - entered == SAID[point]


def test_a_word_that_is_no_moment_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="before_commit, after_commit"):
        crash_points(MemoryBackend(), "after lunch")
