"""A way to the ledger that is late, and what the pages of several such workers show."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import pytest

from taskflow_otel.backends.memory import MemoryBackend
from taskflow_otel.metrics.fleet import FleetMetrics
from taskflow_otel.model.query import Instance
from taskflow_otel.runtime.identity import host_identity
from taskflow_otel.testing.clock import FakeClock
from tests.metrics.worker import FINISHED, Worker

T = TypeVar("T")


class Late(MemoryBackend):
    """One worker's way to the ledger: its statements arrive late, or their answers do.

    Each is measured, as in a manager, so that counters rise with every exchange.
    """

    def __init__(self, ledger: MemoryBackend, clock: FakeClock) -> None:
        super().__init__()
        self.ledger = ledger
        self.clock = clock
        self.before = self.after = 0.0
        self.worker: Worker | None = None

    async def _take(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        started = self.clock.monotonic()
        await self.clock.sleep(self.before)
        result = await work()
        await self.clock.sleep(self.after)
        if self.worker is not None:
            self.worker.exporter.observe_backend("late", operation, "ok", self.clock.monotonic() - started)
        return result

    async def settings(self, prefix: str) -> dict[str, str]:
        return await self._take("settings", lambda: self.ledger.settings(prefix))

    async def put_setting(self, key: str, value: str | None) -> None:
        await self._take("put_setting", lambda: self.ledger.put_setting(key, value))

    async def swap_settings(self, expected: Mapping[str, str | None], changes: Mapping[str, str | None]) -> bool:
        return await self._take("swap_settings", lambda: self.ledger.swap_settings(expected, changes))

    async def instances(self) -> list[Instance]:
        return await self._take("instances", lambda: self.ledger.instances())

    async def beat(self, instance: Instance) -> bool:
        return await self.ledger.beat(instance)


class Metrics(FleetMetrics):
    """Waits by the clock of the test."""

    async def _wait_for(self, exchange: asyncio.Task[None], timeout: float) -> bool:
        late = asyncio.ensure_future(self._clock.sleep(timeout))
        await asyncio.wait({exchange, late}, return_when=asyncio.FIRST_COMPLETED)
        late.cancel()
        return exchange.done() and not exchange.cancelled() and exchange.exception() is None


class Neighbour(Worker):
    """A worker on this host, with its own way to the ledger."""

    host = host_identity()
    metrics_type = Metrics

    def __init__(self, name: str, ledger: MemoryBackend, clock: FakeClock) -> None:
        self.late = Late(ledger, clock)
        super().__init__(name, self.late, clock)
        self.late.worker = self

    async def come(self) -> Neighbour:
        """Start, while time passes."""
        await in_time(self.clock, self.start())
        return self


def files_at_once(patch: pytest.MonkeyPatch) -> None:
    """Read and write files without threads, for which the clock of a test does not wait."""

    async def at_once(function: Callable[..., T], *arguments: object) -> T:
        return function(*arguments)

    patch.setattr(asyncio, "to_thread", at_once)


class Page:
    """What scrapes of the page have shown, of any worker."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    async def look(self, worker: Worker) -> float:
        finished = 0.0
        for sample in await worker.samples():
            if not sample.name.endswith(("_total", "_bucket", "_count", "_sum")):
                continue
            key = sample.name, tuple(sorted(sample.labels.items()))
            before, self.seen[key] = self.seen.get(key, 0.0), sample.value
            assert sample.value >= before, (worker.name, key, before, sample.value)
            if sample.name == FINISHED:
                finished += sample.value
        return finished


async def in_time(clock: FakeClock, work: Awaitable[T]) -> T:
    """Wait while time passes."""
    task = asyncio.ensure_future(work)
    while not task.done():
        await clock.advance(0.1)
    return await task
