"""What a storm of blocking tasks costs a sync route: `python -m benchmarks.sync_storm`, JSON out.

A `def` route is asked over HTTP again and again, in one process with nothing else to do and in one in which 1,000 tasks
of `time.sleep` have been added just before. Both take turns; the ratio is that of their median rates.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from contextlib import AsyncExitStack

import httpx
from fastapi import FastAPI

from taskflow_otel import TaskAdmin, TaskManager

_STORM = 1_000
_SLEEP = 0.05


async def requests_per_second(seconds: float, *, storm: bool) -> float:
    """The rate at which a sync route answers for a while."""
    app = FastAPI()
    manager = TaskManager(shutdown_timeout=0.1)
    TaskAdmin(app, manager, metrics_token="benchmark")

    @manager.task()
    def sleep() -> None:
        time.sleep(_SLEEP)

    @app.get("/hello")
    def hello() -> str:
        return "hello"

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        client = await stack.enter_async_context(
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://benchmark")
        )
        if storm:
            for _ in range(_STORM):
                await manager.enqueue(sleep)
        count, began = 0, time.monotonic()
        while time.monotonic() - began < seconds:
            (await client.get("/hello")).raise_for_status()
            count += 1
        return count / (time.monotonic() - began)


def main() -> None:
    """Measure both in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rates: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(options.rounds):
        for storm in (False, True):
            rates[storm].append(asyncio.run(requests_per_second(options.seconds, storm=storm)))
    calm, stormy = statistics.median(rates[False]), statistics.median(rates[True])
    print(json.dumps({"calm_per_second": calm, "storm_per_second": stormy, "ratio": stormy / calm}, indent=2))


if __name__ == "__main__":
    main()
