"""Instances with schedules on one backend, on a clock that the test turns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from taskflow_otel import (
    TaskManager,
    TaskRecord,
)
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.testing.clock import FakeClock, settle
from tests.managers import started

START = datetime(2026, 1, 1, tzinfo=UTC)


async def nothing() -> None:
    """A job."""


def seconds_of(record: TaskRecord) -> float:
    assert record.run_at is not None
    return (record.run_at - START).total_seconds()


class Plant:
    """One backend and one clock, on which managers with the same schedules come and go."""

    def __init__(self, declare: Callable[[TaskManager], object], **options: Any) -> None:
        self.clock = FakeClock(START)
        self.backend = options.pop("snapshot_backend", None) or MemoryBackend(durable=True)
        self._declare = declare
        self._options = options

    def manager(self) -> TaskManager:
        manager = TaskManager(snapshot_backend=self.backend, clock=self.clock, **self._options)
        self._declare(manager)
        return manager

    @asynccontextmanager
    async def running(self) -> AsyncIterator[TaskManager]:
        async with started(self.manager()) as manager:
            await settle()
            yield manager

    async def records(self, **query: Any) -> list[TaskRecord]:
        found: list[TaskRecord] = []
        cursor = None
        while True:
            page = await self.backend.page(
                TaskQuery(**{"source": "scheduled", "cursor": cursor, "limit": 500, **query})
            )
            found += page.records
            if (cursor := page.next_cursor) is None:
                return found[::-1]

    async def times(self, **query: Any) -> list[float]:
        """Firing times of the tasks made so far, in seconds since the start, sorted."""
        return sorted(seconds_of(record) for record in await self.records(**query))

    async def sleep_until(self, seconds: float) -> None:
        """Let time pass while nothing runs, or a host is suspended."""
        self.clock.set_wall(START + timedelta(seconds=seconds))


def every(seconds: float, **options: Any) -> Callable[[TaskManager], object]:
    return lambda manager: manager.schedule(every=seconds, name="job", **options)(nothing)
