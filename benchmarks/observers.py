"""What an observer that misbehaves costs: `python -m benchmarks.observers`, JSON out.

In-memory no-op tasks with one observer of their transitions. `none` has no observer, `again` has none either and shows
what is noise, `counts` counts its events: the baselines. `raises` raises on each, `sleeps` takes ten milliseconds for
each without holding the event loop up, `blocks` holds it up for 50 µs. How the cases take turns is told in
`benchmarks/slices.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from typing import Any

from benchmarks.slices import Child, answer_slices, compare, take_turns
from taskflow_otel import LifecycleEvent, TaskManager, TaskObserver

MODULE = "benchmarks.observers"
BASELINES = ("none", "counts")
_SLEEP_SECONDS = 0.01
_BLOCK_SECONDS = 50e-6


class Counts(TaskObserver):
    """Does hardly anything."""

    name = "observer"
    events = 0

    async def on_lifecycle(self, event: LifecycleEvent) -> None:
        """Count it."""
        self.events += 1


class Raises(Counts):
    """Fails on each event."""

    async def on_lifecycle(self, event: LifecycleEvent) -> None:
        """Count it and raise."""
        self.events += 1
        raise ConnectionError("nobody there")


class Sleeps(Counts):
    """Cannot keep up."""

    async def on_lifecycle(self, event: LifecycleEvent) -> None:
        """Count it and wait."""
        self.events += 1
        await asyncio.sleep(_SLEEP_SECONDS)


class Blocks(Counts):
    """Computes on the event loop."""

    async def on_lifecycle(self, event: LifecycleEvent) -> None:
        """Count it and keep the loop busy."""
        self.events += 1
        end = time.perf_counter() + _BLOCK_SECONDS
        while time.perf_counter() < end:
            pass


CASES: dict[str, type[Counts] | None] = {
    "none": None,
    "again": None,
    "counts": Counts,
    "raises": Raises,
    "sleeps": Sleeps,
    "blocks": Blocks,
}


async def application(case: str) -> None:
    """One case: a manager that runs no-op tasks whenever it is asked to."""
    kind = CASES[case]
    observers = [] if kind is None else [kind()]
    manager = TaskManager(loggers=observers)

    @manager.task()
    async def nothing() -> None:
        pass

    async def run_one() -> None:
        await manager.wait(await manager.enqueue(nothing))

    def sample(metric: str) -> float | None:
        return manager.metrics.registry.get_sample_value(metric, {"exporter": "observer"})

    await manager.startup()
    await answer_slices(
        run_one,
        lambda: {
            "events": sum(observer.events for observer in observers),
            "dropped": sample("taskflow_events_dropped_total"),
            "errors": sample("taskflow_exporter_errors_total"),
        },
    )
    os._exit(0)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Let the cases take turns, and compare them."""
    children = {case: Child(MODULE, "--case", case) for case in CASES}
    rounds = take_turns(children, rounds=options.rounds, warm_up=options.warm_up, seconds=options.seconds)
    for child in children.values():
        child.end()
    return {
        "rounds": options.rounds,
        "seconds": options.seconds,
        "load_average": os.getloadavg()[0],
        "cases": {
            case: compare(rounds, case, BASELINES)
            | {figure: rounds[-1][case][figure] for figure in ("events", "dropped", "errors")}
            | {"complaints_printed": sum("failed to take events" in line for line in child.printed())}
            for case, child in children.items()
        },
    }


def main() -> None:
    """Compare the cases, or be the process of one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--warm-up", type=int, default=3, help="rounds that are not measured")
    parser.add_argument("--seconds", type=float, default=0.4, help="length of a slice")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        asyncio.run(application(options.case))
    else:
        print(json.dumps(measure(options), indent=2))


if __name__ == "__main__":
    main()
