"""A program that is its own `__main__`: its task functions can be imported by nobody."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from taskflow_otel import TaskManager, task_log

task_manager = TaskManager(max_process_workers=1)


@dataclass
class Parcel:
    weight: int


class MainError(Exception):
    """Of `__main__`."""


@task_manager.task(executor="process", retries=1, retry_on=MainError)
def weigh(parcel: Parcel, marker: Path) -> None:
    if not marker.exists():
        marker.touch()
        raise MainError("again")
    task_log(f"{parcel.weight} kg in {__name__}")


@task_manager.task(executor="process")
def sleep_long(pid_file: Path, in_c: bool) -> None:
    pid_file.write_text(str(os.getpid()))
    if in_c:
        ctypes.PyDLL(None).sleep(600)
    time.sleep(600)


async def main(command: str, path: Path) -> None:
    await task_manager.startup()
    if command == "weigh":
        task_id = await task_manager.enqueue(weigh, Parcel(3), path)
        record = await task_manager.wait(task_id, timeout=60)
        logs = await task_manager.engine.lookup.logs(task_id)
        sys.stdout.write(f"{record.status} {record.attempt} {record.error} {[entry.message for entry in logs]}\n")
    else:
        await task_manager.enqueue(sleep_long, path, command == "sleep in C")
        await asyncio.sleep(600)
    await task_manager.shutdown()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
