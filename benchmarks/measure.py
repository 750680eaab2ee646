"""Measures one case of the suite in this process and prints one JSON object: `python -m benchmarks.measure`.

python -m benchmarks.measure KIND WHAT --size N
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.workloads import find

Probe = Callable[[str, int, Path], Awaitable[dict[str, Any]]]
"""Takes what is measured, a size, and an empty directory."""


async def workload(name: str, size: int, directory: Path) -> dict[str, Any]:
    """Tasks per second and CPU time per task of a workload, once it is warm."""
    async with find(name)(directory) as run:
        await run(max(1, size // 10))
        gc.collect()
        began, cpu = time.perf_counter(), time.process_time()
        await run(size)
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        return {"tasks": size, "tasks_per_second": size / took, "cpu_us_per_task": cpu / size * 1e6}


_PROBES = {
    "workload": "benchmarks.measure",
    "http": "benchmarks.served",
    "unrelated": "benchmarks.served",
    "in-line": "benchmarks.probes",
    "stall": "benchmarks.probes",
    "memory-growth": "benchmarks.probes_process",
    "watched": "benchmarks.probes_process",
    "scrape": "benchmarks.probes_process",
    "imports": "benchmarks.probes_process",
    "lateness": "benchmarks.probes_schedules",
    "start": "benchmarks.probes_start",
    "idle-schedules": "benchmarks.probes_schedules",
}


def find_probe(kind: str) -> Probe:
    """The probe of this kind."""
    probe: Probe = getattr(importlib.import_module(_PROBES[kind]), kind.replace("-", "_"))
    return probe


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=_PROBES)
    parser.add_argument("what")
    parser.add_argument("--size", type=int, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="taskflow-measure-") as directory:

        async def measure() -> None:
            found = await find_probe(given.kind)(given.what, given.size, Path(directory))
            print(json.dumps(found), flush=True)
            # What is still in line need not finish.
            os._exit(0)

        asyncio.run(measure())


if __name__ == "__main__":
    main()
