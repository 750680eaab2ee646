"""Where the time of one task goes, by room of the package: `python -m benchmarks.rooms [WORKLOAD ...]`.

The CPU time of the process is sampled on the event loop's thread. A sample belongs to the innermost frame of this
package. What a library does on its behalf (asyncio, SQLAlchemy, the SDK, a garbage collection) counts for the room that
called it, and is named after it. `other threads` is CPU time while the event loop waits: the writers of databases. `the
workload` is the benchmark itself, `asyncio` what no frame of this package is below.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import taskflow_otel
from benchmarks.workloads import find

DEFAULT = ("memory", "sqlite", "memory-sdk")
_TICK = 0.001
"""Seconds of CPU time between two samples; the kernel rounds it up to its own tick."""
_PACKAGE = str(Path(taskflow_otel.__file__).parent) + "/"
_HERE = str(Path(__file__).parent / "workloads") + "/"
_STDLIB = sysconfig.get_path("stdlib") + "/"


class Sampler:
    """Counts, for each sample, the room and what it was doing."""

    def __init__(self) -> None:
        self.samples = 0
        self.rooms: Counter[str] = Counter()
        self.elsewhere: dict[str, Counter[str]] = {}
        self.functions: Counter[str] = Counter()

    def take(self, _: int, frame: FrameType | None) -> None:
        """A signal handler."""
        self.samples += 1
        if frame is not None and frame.f_code.co_name == "select" and frame.f_code.co_filename.endswith("selectors.py"):
            self.rooms["other threads"] += 1
            return
        inside = frame
        while inside is not None and not (room := _room(inside.f_code.co_filename)):
            inside = inside.f_back
        if inside is None or frame is None:
            self.rooms["asyncio"] += 1
            return
        self.rooms[room] += 1
        self.functions[f"{room}: {inside.f_code.co_qualname}"] += 1
        if inside is not frame:
            self.elsewhere.setdefault(room, Counter())[_library(frame.f_code.co_filename)] += 1

    def __enter__(self) -> Sampler:
        signal.signal(signal.SIGPROF, self.take)
        signal.setitimer(signal.ITIMER_PROF, _TICK, _TICK)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_IGN)


def _room(file: str) -> str:
    """`engine`, `exporters/otel` or `bus`; empty for a file of others."""
    if file.startswith(_PACKAGE):
        place = Path(file.removeprefix(_PACKAGE))
        return str(place.parent) if len(place.parts) > 1 else place.stem
    return "the workload" if file.startswith(_HERE) else ""


def _library(file: str) -> str:
    if "site-packages/" in file:
        return file.rpartition("site-packages/")[2].split("/")[0]
    return file.removeprefix(_STDLIB).split("/")[0].removesuffix(".py") if file.startswith(_STDLIB) else "generated"


async def profile(name: str, seconds: float, functions: int) -> dict[str, Any]:
    """Sample one workload for about as long as this."""
    with tempfile.TemporaryDirectory() as folder:
        async with find(name)(Path(folder)) as run:
            await run(500)
            with Sampler() as sampler:
                tasks, began, cpu = 0, time.monotonic(), time.process_time()
                while time.monotonic() - began < seconds:
                    await run(500)
                    tasks += 500
                cpu = (time.process_time() - cpu) / tasks * 1e6
    share = cpu / max(1, sampler.samples)
    return {
        "tasks": tasks,
        "samples": sampler.samples,
        "cpu_us_per_task": round(cpu, 1),
        "rooms": {
            room: {
                "us": round(count * share, 1),
                "of that in": {
                    library: round(one * share, 1)
                    for library, one in sampler.elsewhere.get(room, Counter()).most_common(5)
                },
            }
            for room, count in sampler.rooms.most_common()
        },
        "functions": {name: round(count * share, 1) for name, count in sampler.functions.most_common(functions)},
    }


def main() -> None:
    """Profile and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", default=DEFAULT)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--functions", type=int, default=0, metavar="N", help="the functions that take most")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = {name: asyncio.run(profile(name, given.seconds, given.functions)) for name in given.workloads}
    if given.json:
        json.dump(found, sys.stdout, indent=2)
        return
    for name, one in found.items():
        print(f"{name}: {one['cpu_us_per_task']} µs of CPU per task ({one['samples']} samples)")
        for room, spent in one["rooms"].items():
            inside = ", ".join(f"{library} {us}" for library, us in spent["of that in"].items())
            print(f"  {spent['us']:>7.1f}  {room:24} {inside}")
        for function, us in one["functions"].items():
            print(f"  {us:>7.1f}  {function}")


if __name__ == "__main__":
    main()
