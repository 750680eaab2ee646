"""Error budgets: exact, over all instances, over the window of each objective."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from playwright.async_api import expect

from taskflow_otel import SLO
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.exporters import signals
from taskflow_otel.model.record import NEVER_DUE, TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.testing.clock import FakeClock
from taskflow_otel.web.objectives import Budgets
from tests.engine.test_objectives import LIMIT, Shop
from tests.managers import finish, started
from tests.web.conftest import OpenPage
from tests.web.house import House, make_record


def judged(name: str, status: TaskStatus = TaskStatus.SUCCESS, *, due: datetime = NEVER_DUE, **more: Any) -> TaskRecord:
    """A finished task with an objective."""
    record = make_record(name, status, **more)
    record.timeline = (replace(record.timeline[0], due_at=due), *record.timeline[1:])
    return record


def declare(engine: House, name: str, **objective: Any) -> None:
    async def run() -> None:
        """Do nothing."""

    engine.manager.task(name=name, slo=SLO(**objective))(run)


async def test_a_budget_is_what_all_instances_have_left_in_the_window(client: httpx.AsyncClient, engine: House) -> None:
    assert (await client.get("/tasks/objectives")).json() == []
    declare(engine, "pay", success=0.9, within=30, window=timedelta(days=2))
    declare(engine, "mail", success=0.99)
    declare(engine, "new", success=0.5)
    for _ in range(38):
        engine.keep(judged("pay"))
    for _ in range(2):
        engine.keep(judged("pay", TaskStatus.FAILED))
    # Before the window of one, and in that of the other.
    for name in ("pay", "mail"):
        engine.keep(judged(name, TaskStatus.FAILED, age=3 * 86_400))
    engine.keep(judged("mail", due=datetime(2020, 1, 1, tzinfo=UTC), age=7_200))
    engine.keep(judged("mail", TaskStatus.CANCELLED, reason="cancelled"))
    engine.keep(make_record("mail"))
    mail, new, pay = (await client.get("/tasks/objectives")).json()
    assert pay.items() >= {
        "task": "pay", "success": 0.9, "within_seconds": 30.0, "window_seconds": 172_800.0, "good": 38, "bad": 2,
        "overdue": 0, "good_share": 0.95, "budget_left": pytest.approx(0.5),
    }.items()  # fmt: skip
    assert (mail["good"], mail["bad"], mail["within_seconds"]) == (0, 3, None)
    assert mail["budget_left"] == pytest.approx(-99.0)
    assert datetime.fromisoformat(mail["since"]) < datetime.now(UTC) - timedelta(days=2, hours=23)
    assert datetime.fromisoformat(pay["since"]) > datetime.now(UTC) - timedelta(hours=2)
    assert (new["good"], new["bad"], new["good_share"], new["budget_left"]) == (0, 0, None, 1.0)


async def test_a_task_that_is_late_counts_before_it_has_ended_and_once() -> None:
    clock = FakeClock()
    shop = Shop(MemoryBackend(durable=True), clock)
    budgets = Budgets(shop.manager.engine, shop.manager.metrics_page, clock=clock)

    async def numbers() -> tuple[int | None, int | None, int]:
        await clock.advance(3)
        [one] = await budgets.read()
        assert one.overdue == shop.manager.metrics_page.of_all(signals.SLO_OVERDUE.name)["pack",]
        return one.good, one.bad, one.overdue

    async with started(shop.manager):
        task_id = await shop.manager.enqueue(shop.pack)
        assert await numbers() == (0, 0, 0)
        await clock.advance(LIMIT)
        await shop.missed(task_id)
        assert await numbers() == (0, 1, 1)
        shop.gate.opened.set()
        await finish(shop.manager, task_id)
        assert await numbers() == (0, 1, 0)


@pytest.mark.browser
async def test_the_page_shows_the_budgets_of_types_with_an_objective(opened: OpenPage, engine: House) -> None:
    async with opened("?view=overview") as page:
        await expect(page.get_by_role("heading", name="Activity")).to_be_visible()
        await expect(page.get_by_role("region", name="Objectives")).to_be_hidden()
    declare(engine, "pay", success=0.9995, within=30)
    engine.keep(judged("pay", TaskStatus.FAILED))
    async with opened("?view=overview") as page:
        row = page.get_by_role("region", name="Objectives").get_by_role("row").filter(has_text="pay")
        await expect(row).to_contain_text("99.95 % in 30.0 s, over 30 d 0 h")
        await expect(row).to_contain_text("-199900 %")
