"""A program that forks: before its manager starts, after it has stopped, and while it runs."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

from taskflow_otel import TaskManager, TaskStatus
from tests.chaos.backends import make_backend

manager = TaskManager(snapshot_backend=make_backend(os.environ["APP_BACKEND"], os.environ["APP_URL"]))
CHILDREN, TASKS = (int(argument) for argument in sys.argv[1:])


@manager.task(persist=True)
async def job() -> None:
    """Nothing."""


async def work() -> None:
    """Run tasks to their end."""
    ids = [await manager.enqueue(job) for _ in range(TASKS)]
    for task_id in ids:
        assert (await manager.wait(task_id, 20)).status is TaskStatus.SUCCESS


async def live() -> None:
    """One life of the manager."""
    await manager.startup()
    await work()
    await manager.shutdown()


def children(act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Let forked children act at the same time; raises if one fails."""
    pids = []
    for _ in range(CHILDREN):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                asyncio.run(act())
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * CHILDREN


async def live_around(act: Callable[[], None]) -> None:
    """One life of the manager, in the middle of which the process forks."""
    await manager.startup()
    await work()
    act()
    await work()
    await manager.metrics_page.refresh()
    sys.stdout.write(manager.metrics_page.render("text/plain")[0].decode())
    await manager.shutdown()


if __name__ == "__main__":
    children(live)
    asyncio.run(live())
    children(live)
    asyncio.run(live_around(lambda: children(live)))
