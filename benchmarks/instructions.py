"""How many instructions one task takes, whatever else the machine is doing: `python -m benchmarks.instructions`.

    python -m benchmarks.instructions [WORKLOAD ...] [--tasks 1000] [--json FILE]
    python -m benchmarks.instructions --check        # beside benchmarks/instructions.json: fails beyond the margin
    python -m benchmarks.instructions --baseline     # measure and write benchmarks/instructions.json anew
    python -m benchmarks.instructions memory --functions 40   # the C functions that take most

Callgrind counts the instructions of all threads between two marks in the program: the start is not counted. Hash seed
and address space are fixed, and the clock stands still. How many tasks share a transaction still varies with the
threads' turns, and with it the counts of persisted tasks, by a few per cent. The kernel's instructions are not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.workloads import find
from taskflow_otel.runtime.clock import SystemClock, TimerHandle

DEFAULT = ("memory", "memory-sdk", "sqlite", "route-memory", "route-sqlite", "route-plain")
BESIDE = ("floor", "sdk", "route-native", "route-plain-native")
"""References: measured when named, and for the baseline."""
BASELINE = Path(__file__).with_name("instructions.json")
MARGIN = 0.10
"""A workload may take this share more than its baseline before `--check` fails."""
LIBRARIES = ("fastapi", "opentelemetry-sdk", "pydantic", "sqlalchemy", "starlette")
_SLOWER = 1_000
_MARK = "getppid"
"""A function of the C library that nothing else calls: callgrind writes its counts down whenever it is entered."""


def available() -> bool:
    """Whether the tools are installed."""
    return shutil.which("valgrind") is not None and shutil.which("setarch") is not None


def interpreter() -> str:
    """Counts are comparable within one minor version of the interpreter only."""
    return f"{platform.python_implementation()} {sys.version_info.major}.{sys.version_info.minor} {platform.machine()}"


def measure(names: Sequence[str], tasks: int, functions: int = 0) -> dict[str, dict[str, Any]]:
    """Instructions per task for each workload. All share one start; each then runs in a process forked from it."""
    with tempfile.TemporaryDirectory(prefix="taskflow-instructions-") as folder:
        command = ["setarch", "-R", "valgrind", "--tool=callgrind", "--quiet", f"--dump-before={_MARK}"]
        command += [f"--callgrind-out-file={folder}/out.%p", sys.executable, "-m", "benchmarks.instructions"]
        command += ["--inside", "--tasks", str(tasks), *names]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        environment |= {"PYTHONHASHSEED": "0", "OTEL_METRICS_EXPORTER": "none"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found: dict[str, dict[str, Any]] = {}
        for line in done.stdout.splitlines():
            name, process = line.split()
            # The first dump ends before the measured part, the second holds it.
            dump = Path(folder) / f"out.{process}.2"
            found[name] = {"instructions_per_task": _total(dump) // tasks}
            if functions:
                found[name]["functions"] = _functions(dump, tasks, functions)
        return found


def _total(dump: Path) -> int:
    for line in dump.open():
        if line.startswith("summary:"):
            return int(line.split()[1])
    raise ValueError(f"{dump} holds no summary")


def _functions(dump: Path, tasks: int, number: int) -> dict[str, int]:
    """The instructions per task that the C functions take themselves, most first."""
    names: dict[str, str] = {}
    own: Counter[str] = Counter()
    function, called = "", False
    for line in dump.open():
        if match := re.match(r"(fn|cfn)=\((\d+)\)(?: (.*))?", line):
            kind, key, name = match.groups()
            if name:
                names[key] = name.strip()
            if kind == "fn":
                function = key
        elif line.startswith("calls="):
            called = True
        elif line[:1] in "0123456789+-*":
            if not called:
                own[function] += int(line.split()[-1])
            called = False
    return {names.get(key, key): count // tasks for key, count in own.most_common(number)}


def _slow_the_clock() -> None:
    """Keep out what recurs by the clock (heartbeats, the writing of history that waits): how often it happens during
    the tasks depends on how fast the machine is at the moment."""
    call_later, sleep = SystemClock.call_later, SystemClock.sleep

    def call_much_later(clock: SystemClock, delay: float, callback: Callable[[], None]) -> TimerHandle:
        return call_later(clock, delay * _SLOWER, callback)

    async def sleep_much_longer(clock: SystemClock, delay: float) -> None:
        await sleep(clock, delay * _SLOWER)

    SystemClock.call_later = call_much_later  # type: ignore[method-assign,assignment]
    SystemClock.sleep = sleep_much_longer  # type: ignore[method-assign,assignment]
    # What is looked up again after a while would be looked up for each task on a machine that is slow at the moment.
    SystemClock.now = staticmethod(itertools.repeat(SystemClock.now()).__next__)


def _inside(names: Sequence[str], tasks: int) -> None:
    """Under valgrind: a process for each workload, that says its name and number."""
    _slow_the_clock()
    workloads = {name: find(name) for name in names}
    for name, workload in workloads.items():
        process = os.fork()
        if not process:
            with tempfile.TemporaryDirectory() as folder:

                async def run(directory: Path = Path(folder)) -> None:
                    async with workload(directory) as run:  # noqa: B023  # runs before the next one
                        # What is done once for each task type is done, and the batches have their size.
                        await run(tasks)
                        # Otherwise a full collection falls among the tasks or not, by chance.
                        gc.collect()
                        os.getppid()
                        await run(tasks)
                        os.getppid()

                asyncio.run(run())
            os._exit(0)
        _, status = os.waitpid(process, 0)
        if status:
            raise SystemExit(f"{name} failed")
        print(name, process, flush=True)


def compare(found: dict[str, dict[str, Any]], baseline: dict[str, Any]) -> list[str]:
    """A sentence for each workload that takes more than its baseline and the margin."""
    kept = baseline["workloads"]
    return [
        f"{name}: {one['instructions_per_task']:,} instructions per task,"
        f" {one['instructions_per_task'] / kept[name]['instructions_per_task'] - 1:+.0%} beside the baseline's"
        f" {kept[name]['instructions_per_task']:,}; up to {baseline['margin']:+.0%} is allowed"
        for name, one in found.items()
        if name in kept
        and one["instructions_per_task"] > kept[name]["instructions_per_task"] * (1 + baseline["margin"])
    ]


def main() -> None:
    """Measure, and compare or write the baseline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD")
    parser.add_argument("--tasks", type=int, default=1_000, help="a multiple of what one batch of history holds")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--functions", type=int, default=0, metavar="N")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--baseline", action="store_true")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = given.workloads or (DEFAULT + BESIDE if given.baseline else DEFAULT)
    if given.inside:
        _inside(names, given.tasks)
        return
    if not available():
        raise SystemExit("valgrind and setarch are needed: apt-get install valgrind util-linux")
    kept = json.loads(BASELINE.read_text()) if BASELINE.exists() else None
    if given.check:
        if kept is None:
            raise SystemExit(f"{BASELINE} does not exist: write it with --baseline")
        if kept["interpreter"] != interpreter():
            print(f"not compared: the baseline is of {kept['interpreter']}, this is {interpreter()}")
            return
    found = measure(names, given.tasks, given.functions)
    result = {
        "interpreter": interpreter(),
        "margin": MARGIN,
        "tasks": given.tasks,
        "libraries": {library: version(library) for library in LIBRARIES},
        "workloads": found,
    }
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")
    if given.baseline:
        BASELINE.write_text(json.dumps(result, indent=2) + "\n")
    for name, one in found.items():
        before = kept["workloads"].get(name) if kept and not given.baseline else None
        change = (
            "" if before is None else f"  {one['instructions_per_task'] / before['instructions_per_task'] - 1:+.1%}"
        )
        print(f"{name:18} {one['instructions_per_task']:>12,} instructions per task{change}")
        for function, count in one.get("functions", {}).items():
            print(f"    {count:>10,}  {function}")
    if given.check and kept and (worse := compare(found, kept)):
        raise SystemExit("\n".join(worse))


if __name__ == "__main__":
    main()
