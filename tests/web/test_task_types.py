"""The types of tasks: their figures, what they are compared with, their slowest tasks, and how they are declared."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from taskflow_otel import SLO
from taskflow_otel.model.figures import Span
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.web import task_types
from taskflow_otel.web.objectives import Budgets
from taskflow_otel.web.task_types import WINDOWS, WINDOWS_OF_ONE, TaskTypes
from tests.clocks import HandClock
from tests.web.conftest import ClientOf
from tests.web.house import House, make_record

_WEEK = 7 * 86_400


def keep(
    engine: House, name: str, number: int, status: TaskStatus = TaskStatus.SUCCESS, *, timed: bool = True, **more: Any
) -> None:
    """Store tasks that another instance has run, or has not (`timed=False`)."""
    for _ in range(number):
        record = make_record(name, status, **more)
        record.duration = record.duration if timed else None
        engine.keep(record)


async def read(client: httpx.AsyncClient, path: str = "", window: str = "1h") -> dict[str, Any]:
    answer = await client.get(f"/tasks/types{path}?window={window}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_the_api_takes_the_windows_that_are_measured(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    for path, windows in (("/tasks/types", WINDOWS), ("/tasks/types/{name}", WINDOWS_OF_ONE)):
        [window] = [one for one in paths[path]["get"]["parameters"] if one["name"] == "window"]
        assert window["schema"]["enum"] == list(windows)
    assert (await client.get("/tasks/types?window=3h")).status_code == 422


async def test_each_number_of_the_table_is_that_of_the_tasks_that_finished_in_the_window(
    client: httpx.AsyncClient, engine: House
) -> None:
    keep(engine, "send", 90, age=300, wait=0.25, duration=0.5)
    keep(engine, "send", 7, age=300, wait=3.0, duration=4.0)
    keep(engine, "send", 3, TaskStatus.FAILED, age=300, wait=3.0, duration=9.0, retries_used=2)
    keep(engine, "report", 1, age=1_200, wait=0.25, duration=756.0)
    keep(engine, "report", 5, TaskStatus.CANCELLED, timed=False)
    # Created in the window and not finished, and finished before it.
    keep(engine, "report", 4, TaskStatus.RUNNING, age=5)
    keep(engine, "gone", 2, age=50_000, duration=1.0)
    found = await read(client)
    assert [one["func_name"] for one in found["types"]][:2] == ["report", "send"]
    report, send = found["types"][:2]
    assert {name: send[name] for name in send if name not in {"last_hour", "points"}} == {
        "func_name": "send", "is_declared": True, "finished": 100, "success": 97, "failed": 3, "failure_share": 0.03,
        "retries": 6, "run_p50_seconds": 0.5, "run_p95_seconds": 4.0, "run_p99_seconds": 9.0, "wait_p95_seconds": 3.0,
        "run_seconds": pytest.approx(100.0), "run_share": pytest.approx(100 / 856),
        "week_before": None, "change": None, "slower": None,
    }  # fmt: skip
    assert (report["finished"], report["failure_share"], report["run_p99_seconds"]) == (6, 0.0, 756.0)
    assert [sum(one["points"]) for one in (send, report)] == [100, 6]
    assert len(send["points"]) == len(report["points"]) >= 30
    assert "gone" not in {one["func_name"] for one in found["types"]}
    # Those that are declared here are shown without a task too.
    idle = next(one for one in found["types"] if one["func_name"] == "send_report")
    assert (idle["finished"], idle["failure_share"], idle["run_p95_seconds"], idle["run_share"]) == (0, None, None, 0.0)
    day = await read(client, window="24h")
    gone = next(one for one in day["types"] if one["func_name"] == "gone")
    assert (gone["finished"], gone["is_declared"], gone["run_seconds"]) == (2, False, 2.0)
    assert (day["total"], day["bucket_seconds"]) == (len(day["types"]), 3_600)


def ended(engine: House, name: str, at: float, duration: float = 1.0) -> None:
    """A task that ended at this moment."""
    record = make_record(name, duration=duration)
    record.end_time = datetime.fromtimestamp(at, UTC)
    record.created_at = record.end_time - timedelta(seconds=duration)
    engine.keep(record)


async def test_an_hour_is_compared_with_the_same_of_last_week_only_where_that_is_known(engine: House) -> None:
    this = Span.HOUR.slot(datetime.now(UTC))
    last, week = this - 3_600, this - 3_600 - _WEEK
    clock = HandClock(this + 1_050.0)
    types = TaskTypes(engine.manager.engine, Budgets(engine.manager.engine, engine.manager.metrics_page), clock=clock)

    async def compared(name: str) -> tuple[Any, ...]:
        clock.seconds += 60
        one = next(one for one in (await types.table("24h")).types if one.func_name == name)
        detail = await types.one(name, "1h")
        assert detail is not None
        assert (detail.last_hour, detail.week_before, detail.change) == (one.last_hour, one.week_before, one.change)
        hours = [
            None if hour is None else (hour.finished, hour.run_p95_seconds) for hour in (one.last_hour, one.week_before)
        ]
        return (*hours, one.change, one.slower)

    assert await compared("send") == (None, None, None, None)
    for _ in range(6):
        ended(engine, "send", last + 60, 2.0)
    ended(engine, "send", this + 60, 50.0)
    ended(engine, "other", last + 3_599.9, 3.0)
    assert await compared("send") == ((6, 2.0), None, None, None)
    for _ in range(4):
        ended(engine, "send", week + 1_800, 1.0)
    # Counting may have begun in the middle of that hour, so its numbers may not be all.
    assert await compared("send") == ((6, 2.0), None, None, None)
    ended(engine, "report", week - 1)
    assert await compared("send") == ((6, 2.0), (4, 1.0), 0.5, 1.0)
    assert await compared("other") == ((1, 3.0), (0, None), None, None)
    assert await compared("build_report") == ((0, None), (0, None), None, None)


async def test_a_type_shows_when_how_many_ran_how_long(client: httpx.AsyncClient, engine: House) -> None:
    keep(engine, "send", 3, age=30, duration=0.3)
    keep(engine, "send", 1, age=30, duration=5.0)
    keep(engine, "send", 2, age=2 * 86_400, duration=100.0)
    keep(engine, "send", 2, TaskStatus.REJECTED, age=30, timed=False)
    keep(engine, "send", 2, TaskStatus.RUNNING, age=30)
    keep(engine, "other", 9, age=30, duration=7.0)
    found = await read(client, "/send", "24h")
    assert (found["finished"], found["running"], found["pending"], found["retried"]) == (6, 2, 0, 0)
    rows = {limit: sum(column[row] for column in found["heat"]) for row, limit in enumerate(found["bands"])}
    assert {row: number for row, number in rows.items() if number} == {
        max(limit for limit in rows if limit <= 0.3): 3,
        max(limit for limit in rows if limit <= 5.0): 1,
    }
    assert len(found["heat"]) == len(found["points"])
    week = await read(client, "/send", "7d")
    assert (week["finished"], week["run_p99_seconds"], sum(map(sum, week["heat"]))) == (8, 100.0, 6)
    assert sum(point["other"] for point in week["points"]) == 2
    assert [task["duration"] for task in week["slowest"]] == [100.0, 100.0, 5.0, 0.3, 0.3, 0.3]
    assert week["slowest_exact"]
    empty = await read(client, "/build_report")
    assert (empty["finished"], empty["bands"], empty["heat"], empty["slowest"]) == (0, [], [], [])
    assert (await client.get("/tasks/types/nobody")).status_code == 404
    # Nothing of it has finished in a week, and it is not declared: its tasks are still stored.
    keep(engine, "long/past", 1, age=30 * 86_400)
    assert (await read(client, "/long%2Fpast"))["finished"] == 0


async def test_the_slowest_are_looked_for_until_the_figures_say_that_they_are_found(
    client: httpx.AsyncClient, engine: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_types, "_PAGE", 20)
    monkeypatch.setattr(task_types, "_PAGES", 3)
    keep(engine, "late", 70, age=3_000, duration=1.0)
    keep(engine, "late", 10, age=2_000, duration=50.0)
    keep(engine, "early", 10, age=3_000, duration=50.0)
    keep(engine, "early", 70, age=2_000, duration=1.0)

    async def slowest(name: str) -> tuple[list[float], bool, int]:
        engine.backend.queries.clear()
        found = await read(client, f"/{name}")
        pages = [query for query in engine.backend.queries if query.limit == 20]
        return [task["duration"] for task in found["slowest"]], found["slowest_exact"], len(pages)

    assert await slowest("late") == ([50.0] * 10, True, 1)
    assert await slowest("early") == ([1.0] * 10, False, 3)
    assert (await slowest("early"))[2] == 0, "they are used again for a while"


@pytest.mark.parametrize("path", ["", "/send"])
async def test_the_figures_cost_no_more_for_many_tasks_than_for_few(
    client_of: ClientOf, engine: House, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """The table reads no task at all, and as many rows for a hundred times the tasks of the same minutes."""
    store, rows = engine.backend.figure_store, [0]
    figures = store.read

    async def counted(*args: Any, **kwargs: Any) -> Any:
        found = await figures(*args, **kwargs)
        rows[-1] += len(found)
        return found

    monkeypatch.setattr(store, "read", counted)
    last = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=5)

    async def cost(tasks: int) -> tuple[int, int]:
        for number in range(tasks):
            record = make_record("send", duration=1.0)
            record.end_time, record.timeline = last - timedelta(minutes=number % 10), ()
            record.created_at = record.end_time - timedelta(seconds=1)
            engine.keep(record)
        rows.append(0)
        engine.backend.queries.clear()
        # Another administration has read nothing yet.
        await read(client_of(), path)
        return rows[-1], len(engine.backend.queries)

    few, many = await cost(10), await cost(1_000)
    assert many[0] == few[0] > 0
    # For one type: how many of it are stored, and some pages in which its slowest ones are looked for.
    assert many[1] <= (1 + task_types._PAGES if path else 0)


async def test_a_type_shows_how_it_is_declared_and_its_objective(client: httpx.AsyncClient, engine: House) -> None:
    async def pay() -> None:
        """Do nothing."""

    engine.manager.task(
        name="pay", retries=3, delay=2, backoff=2.0, max_delay=60, no_retry_on=KeyError, timeout=30, persist=True,
        queue="mail", priority=7, slo=SLO(success=0.9, within=30),
    )(pay)  # fmt: skip
    found = await read(client, "/pay")
    assert found["options"] == {
        "retries": 3, "delay": 2.0, "backoff": 2.0, "max_delay": 60.0, "jitter": 0.0, "retry_on": ["Exception"],
        "no_retry_on": ["KeyError"], "timeout": 30.0, "persist": True, "requeue_on_interrupt": False, "eager": False,
        "priority": 7, "queue": "mail", "executor": "async",
    }  # fmt: skip
    assert (found["objective"]["task"], found["objective"]["success"], found["objective"]["budget_left"]) == (
        "pay",
        0.9,
        1,
    )
    assert (await read(client, "/send"))["objective"] is None
    keep(engine, "elsewhere", 1)
    elsewhere = await read(client, "/elsewhere")
    assert (elsewhere["is_declared"], elsewhere["options"]) == (False, None)


async def test_without_figures_the_numbers_are_unknown_and_not_none(engine: House) -> None:
    engine.keep(make_record("send", duration=3.0, age=10))
    real = engine.manager.engine

    async def none(*_: object, **__: object) -> None:
        return None

    class Lookup:
        figures = counted_since = staticmethod(none)
        counts, page = real.lookup.counts, real.lookup.page

    class Engine:
        lookup, types, objectives = Lookup(), real.types, real.objectives

    found = TaskTypes(Engine(), Budgets(Engine(), engine.manager.metrics_page))  # type: ignore[arg-type]  # what it asks for
    table, detail = await found.table("1h"), await found.one("send", "1h")
    one = next(one for one in table.types if one.func_name == "send")
    assert detail is not None
    for shown in (one, detail):
        assert (shown.finished, shown.failure_share, shown.retries, shown.run_seconds, shown.change) == (None,) * 5
    assert (one.points, one.run_share, detail.points, detail.heat) == ([], None, [], [])
    assert ([task.duration for task in detail.slowest], detail.slowest_exact) == ([3.0], True)
