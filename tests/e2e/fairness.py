"""python -m tests.e2e.fairness: the shares that two worker processes with equal slots take of the tasks of one queue.

Both are ready before the first task is added. Where tasks take long beside a claim, slots decide, and the shares are
equal. Where they take no time, the speed of the processes decides, and on SQLite who gets the lock of the file.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from taskflow_otel.engine.deployment import RUN
from taskflow_otel.manager import TaskManager
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.status import TaskStatus
from tests.apps.fair_app import make_manager, spend
from tests.chaos.backends import make_backend
from tests.procs import WorkerProcess
from tests.records import every_record
from tests.servers import MariaDBServer, PostgresServer, RedisServer, Server
from tests.waiting import eventually

_SERVERS: Mapping[str, Callable[[], Server]] = {
    "postgres": PostgresServer,
    "redis": RedisServer,
    "mysql": MariaDBServer,
}
LEDGERS = ("sqlite", *_SERVERS)
_AT_ONCE = 500


@contextlib.contextmanager
def two_workers(ledgers: Mapping[str, str], slots: int, directory: Path) -> Iterator[list[WorkerProcess]]:
    """Two processes that are ready to run the tasks of these ledgers (URLs by kind of backend), with equal slots."""
    env = {"APP_LEDGERS": json.dumps(dict(ledgers)), "APP_SLOTS": str(slots)}
    with contextlib.ExitStack() as stack:
        workers: list[WorkerProcess] = []
        for name in ("one", "other"):
            (directory / name).mkdir()
            workers.append(WorkerProcess("tests.apps.fair_app:app", directory / name, env=env))
            stack.callback(workers[-1].kill)
        with ThreadPoolExecutor(len(workers)) as starters:
            list(starters.map(lambda worker: worker.start(timeout=120), workers))
        yield workers


@contextlib.asynccontextmanager
async def enqueuing(backend: str, url: str, slots: int) -> AsyncIterator[TaskManager]:
    """A manager that adds tasks, and runs none."""
    before = os.environ.get(RUN)
    os.environ[RUN] = "none"
    try:
        manager = make_manager(backend, url, slots)
    finally:
        os.environ.pop(RUN)
        if before is not None:
            os.environ[RUN] = before
    await manager.startup()
    try:
        yield manager
    finally:
        await manager.shutdown()


async def shares(backend: str, url: str, slots: int, number: int, seconds: float) -> Sequence[int]:
    """Have this number of tasks run, each this long; how many each worker ran, the smaller number first."""
    async with enqueuing(backend, url, slots) as manager:
        for first in range(0, number, _AT_ONCE):
            await asyncio.gather(*(manager.enqueue(spend, seconds) for _ in range(min(_AT_ONCE, number - first))))
        ledger = make_backend(backend, url)
        await ledger.open()
        try:

            async def all_succeeded() -> bool:
                return (await ledger.counts(TaskQuery(status=TaskStatus.SUCCESS))).total == number

            await eventually(all_succeeded, "all runs", timeout=600, interval=0.3)
            ran = Counter(record.instance for record in (await every_record(ledger)).values())
        finally:
            await ledger.close()
    return sorted([*ran.values(), 0][:2])


def main() -> int:
    """Measure on each ledger; the exit status is 1 if a share is not within ten percent of the half."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.fairness", description=__doc__)
    parser.add_argument("--ledger", action="append", choices=LEDGERS, help="default: every one, in turn")
    parser.add_argument("--number", type=int, default=2_000, help="tasks (default: 2000)")
    parser.add_argument("--seconds", type=float, default=0.2, help="that each task takes (default: 0.2)")
    parser.add_argument("--slots", type=int, default=20, help="tasks that each worker runs at once (default: 20)")
    parser.add_argument("--busy", type=int, default=0, help="other processes that only compute (default: 0)")
    options = parser.parse_args()
    unequal = 0
    for backend in options.ledger or LEDGERS:
        with contextlib.ExitStack() as stack:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="taskflow-fairness-")))
            server = None if backend == "sqlite" else stack.enter_context(_SERVERS[backend]())
            url = str(place / "tasks.db") if server is None else server.fresh_url()
            stack.enter_context(two_workers({backend: url}, options.slots, place))
            for _ in range(options.busy):
                burner = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
                stack.callback(burner.kill)
            found = asyncio.run(shares(backend, url, options.slots, options.number, options.seconds))
        sys.stdout.write(f"{backend}: {found[0]} and {found[1]} of {options.number} tasks of {options.seconds:g} s\n")
        sys.stdout.flush()
        unequal += found[0] < 0.45 * options.number
    return int(unequal > 0)


if __name__ == "__main__":
    sys.exit(main())
