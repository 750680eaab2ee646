"""Closed loops: a fixed number of producers, each with one operation under way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from benchmarks.workloads import PRODUCERS


async def produce(number: int, one: Callable[[], Awaitable[object]], producers: int = PRODUCERS) -> None:
    """Run `one` this many times, by `producers` at once."""
    left = number

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await one()

    async with asyncio.TaskGroup() as group:
        for _ in range(min(producers, number)):
            group.create_task(work())
