"""The figures of the overview."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from taskflow_otel.model.status import TaskStatus
from taskflow_otel.web.overview import WINDOWS, Overview, percentile
from tests.clocks import HandClock
from tests.web.house import House, make_record


async def test_the_api_takes_the_windows_that_are_measured(client: httpx.AsyncClient) -> None:
    operation = (await client.get("/openapi.json")).json()["paths"]["/tasks/overview"]["get"]
    [window] = [one for one in operation["parameters"] if one["name"] == "window"]
    assert window["schema"]["enum"] == list(WINDOWS)


async def test_the_overview_measures_the_window(client: httpx.AsyncClient, engine: House) -> None:
    for age in range(100, 1100, 100):
        engine.put(make_record(age=age, wait=0.5, duration=2.0))
    engine.put(make_record(status=TaskStatus.FAILED, age=50, wait=0.5, duration=9.0))
    engine.put(make_record(status=TaskStatus.RUNNING, age=5))
    engine.put(make_record(age=90_000))
    figures = (await client.get("/tasks/overview?window=1h")).json()
    assert sum(point[key] for point in figures["points"] for key in ("success", "failed", "other", "live")) == 12
    assert figures["failure_share"] == pytest.approx(1 / 11)
    assert (figures["running"], figures["pending"], figures["sample"]) == (1, 0, 11)
    assert (figures["run_p95_seconds"], figures["wait_p95_seconds"]) == (9.0, pytest.approx(0.5))


class Standing(HandClock):
    """A clock whose wall time stands while time passes, so that the bounds of the stretches stay."""

    passed = 0.0

    def monotonic(self) -> float:
        return self.passed


async def test_a_reading_of_the_overview_is_shared_and_settled_times_are_not_asked_about_again(
    engine: House,
) -> None:
    now = datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC)
    clock = Standing(now.timestamp())
    overview = Overview(engine.manager.engine, clock=clock)

    async def stretches_asked() -> int:
        engine.backend.queries.clear()
        await asyncio.gather(*(overview.read("1h") for _ in range(5)))
        return sum(query.until is not None for query in engine.backend.queries)

    assert await stretches_asked() == 30
    assert await stretches_asked() == 0
    clock.passed += 5
    assert await stretches_asked() == 1
    engine.put(make_record(status=TaskStatus.RUNNING, created_at=now - timedelta(minutes=10)))
    clock.passed += 400
    assert await stretches_asked() == 30, "history may have been deleted since"
    clock.passed += 5
    assert await stretches_asked() == 2, "a stretch with a live task is still open"


@pytest.mark.parametrize(("values", "expected"), [([], None), ([1.0], 1.0), ([float(n) for n in range(1, 101)], 95.0)])
def test_a_percentile_is_one_of_the_values(values: list[float], expected: float | None) -> None:
    assert percentile(values, 0.95) == expected
