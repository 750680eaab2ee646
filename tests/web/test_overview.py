"""The figures of the overview."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest

from taskflow_otel import TaskManager
from taskflow_otel.model.figures import Figure, Span
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.web.overview import WINDOWS, Overview
from taskflow_otel.web.running import Running
from taskflow_otel.web.task_types import TaskTypes
from taskflow_otel.wire.figures import ObjectiveOut
from tests.clocks import HandClock
from tests.managers import started
from tests.web.house import House, make_record


async def test_the_api_takes_the_windows_that_are_measured(client: httpx.AsyncClient) -> None:
    operation = (await client.get("/openapi.json")).json()["paths"]["/tasks/overview"]["get"]
    [window] = [one for one in operation["parameters"] if one["name"] == "window"]
    assert window["schema"]["enum"] == list(WINDOWS)


async def test_percentiles_and_rates_are_those_of_all_tasks_that_finished_in_the_window(
    client: httpx.AsyncClient, engine: House
) -> None:
    # Long before the newest, and far more than fit on a page; created before the window, and ended in it.
    for _ in range(300):
        engine.keep(make_record(age=7_000, wait=3.0, duration=5_900.0))
    for _ in range(250):
        engine.keep(make_record(age=600, wait=0.5, duration=1.5))
    for _ in range(50):
        engine.keep(make_record(status=TaskStatus.FAILED, age=1_400, wait=1.0, duration=11.0))
    engine.keep(make_record(status=TaskStatus.INTERRUPTED, age=1_300, duration=2.0))
    engine.keep(make_record(status=TaskStatus.RUNNING, age=5))
    engine.keep(make_record(age=90_000))
    engine.keep(make_record(age=4_000, duration=1.0))

    async def read(window: str) -> dict[str, Any]:
        found: dict[str, Any] = (await client.get(f"/tasks/overview?window={window}")).json()
        return found

    quarter, hour, day = [await read(window) for window in ("15m", "1h", "24h")]
    assert (quarter["finished"], hour["finished"], day["finished"]) == (250, 601, 602)
    assert (quarter["run_p95_seconds"], hour["run_p95_seconds"]) == (1.5, 5_900.0)
    assert (hour["run_p50_seconds"], day["run_p50_seconds"]) == (11.0, 11.0)
    assert (quarter["wait_p95_seconds"], hour["wait_p95_seconds"], hour["wait_p50_seconds"]) == (0.5, 3.0, 1.0)
    assert (quarter["failure_share"], hour["failure_share"]) == (0.0, pytest.approx(50 / 600))
    assert (hour["running"], hour["pending"]) == (1, 0)
    for figures in (quarter, hour, day):
        assert [sum(point[key] for point in figures["points"]) for key in ("failed", "other")] == (
            [0, 0] if figures is quarter else [50, 1]
        )
        assert (
            sum(point[key] for point in figures["points"] for key in ("success", "failed", "other"))
            == (figures["finished"])
        )
        since, until = (datetime.fromisoformat(figures[key]) for key in ("since", "until"))
        assert timedelta(0) <= until - since - timedelta(seconds=figures["window_seconds"]) < timedelta(minutes=1)
        assert since.second == since.microsecond == 0


async def test_figures_of_two_instances_are_one_and_survive_a_restart(tmp_path: Any) -> None:
    path = str(tmp_path / "tasks.db")

    async def finished() -> tuple[int | None, float | None]:
        read = await Overview(manager.engine).read("1h")
        return read.finished, read.failure_share

    async def send(fails: bool) -> None:
        if fails:
            raise ValueError("no")

    for number in range(2):
        manager, other = TaskManager(snapshot_db=path), TaskManager(snapshot_db=path)
        async with started(manager), started(other):
            for one in (manager, other):
                task = one.task(name="send", persist=True)(send)
                ids = [await one.enqueue(task, fails) for fails in (False, False, True)]
                for task_id in ids:
                    await one.wait(task_id, timeout=30)
            assert await finished() == (6 * (number + 1), 1 / 3)


async def test_a_rate_does_not_include_the_time_before_the_start_of_the_service(engine: House) -> None:
    now = datetime.now(UTC)
    for _ in range(60):
        engine.keep(make_record(age=1.0, duration=0.1))
    read = await Overview(engine.manager.engine, clock=HandClock((now + timedelta(seconds=90)).timestamp())).read("6h")
    assert read.finished == 60
    assert read.finished_per_minute is not None
    # At most a minute before the first end, and the 90 seconds since.
    assert 24 <= read.finished_per_minute <= 60 / 89 * 60


async def test_a_reading_is_shared_and_settled_minutes_are_not_read_again(
    engine: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Span, int]] = []
    look = engine.manager.engine.lookup.figures

    async def figures(span: Span, first: int, last: int, *, by_name: bool = False) -> list[Figure] | None:
        asked.append((span, (last - first) // span.seconds + 1))
        return await look(span, first, last, by_name=by_name)

    monkeypatch.setattr(engine.manager.engine.lookup, "figures", figures)
    clock = HandClock(datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC).timestamp())
    overview = Overview(engine.manager.engine, clock=clock)

    async def read(window: str, finished: int) -> list[tuple[Span, int]]:
        asked.clear()
        answers = await asyncio.gather(*(overview.read(window) for _ in range(5)))
        assert {answer.finished for answer in answers} == {finished}
        return [*asked]

    def end_at(moment: datetime) -> None:
        record = make_record()
        record.created_at, record.end_time = moment - timedelta(days=2), moment
        engine.keep(record)

    end_at(clock.now() - timedelta(minutes=50))
    end_at(clock.now() - timedelta(hours=20))
    assert await read("1h", 1) == [(Span.MINUTE, 61)]
    assert await read("1h", 1) == []
    clock.seconds += 5
    end_at(clock.now() - timedelta(minutes=1))
    assert await read("1h", 2) == [(Span.MINUTE, 3)]
    assert await read("24h", 3) == [(Span.HOUR, 25)]
    clock.seconds += 60
    assert await read("24h", 3) == [(Span.MINUTE, 59), (Span.HOUR, 2)]
    end_at(clock.now() - timedelta(minutes=40))
    assert await read("1h", 2) == [(Span.MINUTE, 4)]
    clock.seconds += 200
    assert await read("1h", 3) == [(Span.MINUTE, 61)], "an instance may have stored what ended long ago"


READERS: dict[str, tuple[str, Callable[[House, HandClock], Callable[[], Awaitable[object]]]]] = {
    "overview": ("figures", lambda engine, clock: partial(Overview(engine.manager.engine, clock=clock).read, "1h")),
    "running": ("page", lambda engine, clock: Running(engine.manager.engine, clock=clock).read),
    "types": (
        "figures",
        lambda engine, clock: partial(
            TaskTypes(engine.manager.engine, NoBudgets(), clock=clock).table,  # type: ignore[arg-type]  # all it asks
            "1h",
        ),
    ),
}


class NoBudgets:
    async def read(self) -> list[ObjectiveOut]:
        return []


@pytest.mark.parametrize("reader", READERS)
async def test_those_who_wait_for_a_slow_reading_share_the_next_one(
    engine: House, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    method, make = READERS[reader]
    clock, asked = HandClock(datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()), list[float]()
    look = getattr(engine.manager.engine.lookup, method)

    async def slowly(*args: Any, **kwargs: Any) -> Any:
        asked.append(clock.seconds)
        clock.seconds += 3
        return await look(*args, **kwargs)

    monkeypatch.setattr(engine.manager.engine.lookup, method, slowly)
    await make(engine, clock)()
    alone = len(asked)
    asked.clear()
    read = make(engine, clock)
    await asyncio.gather(*(read() for _ in range(10)))
    assert 0 < len(asked) <= 2 * alone


async def test_without_figures_the_overview_says_nothing_about_the_window(engine: House) -> None:
    engine.keep(make_record(status=TaskStatus.RUNNING))

    async def none(*_: object, **__: object) -> None:
        return None

    class Lookup:
        figures = staticmethod(none)
        counts = engine.manager.engine.lookup.counts

    class Engine:
        lookup = Lookup()
        board = engine.manager.engine.board
        pool = None

    read = await Overview(Engine()).read("24h")  # type: ignore[arg-type]  # what it asks for
    assert (read.finished, read.finished_per_minute, read.run_p95_seconds, read.running) == (None, None, None, 1)
