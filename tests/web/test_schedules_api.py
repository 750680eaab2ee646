"""Schedules over HTTP, and on the live page."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI
from playwright.async_api import expect

from taskflow_otel import TaskAdmin, TaskManager
from tests.waiting import eventually
from tests.web.conftest import OpenPage, is_read
from tests.web.house import House


async def remind(what: str = "") -> None:
    """Do nothing."""


async def refused() -> None:
    """It never runs."""


async def test_schedules_are_listed_with_their_next_and_last_run(client: httpx.AsyncClient, engine: House) -> None:
    engine.schedule("nightly", cron="0 2 * * *", timezone="Europe/London")
    engine.schedule("often", every=1)
    run_at = datetime(2199, 3, 1, 12, tzinfo=UTC)
    engine.manager.task()(remind)
    await engine.manager.schedule_once(remind, "secret", run_at=run_at, run_key="mail:7")
    await eventually(lambda: engine.schedule_of("often").last_run is not None, "the first run")
    answer = await client.get("/tasks/schedules")
    nightly, often, once = answer.json()
    assert nightly["next_run"] is not None
    assert {key: nightly[key] for key in ("name", "kind", "rule", "timezone", "last_run", "last_task_id")} == {
        "name": "nightly",
        "kind": "recurring",
        "rule": "0 2 * * *",
        "timezone": "Europe/London",
        "last_run": None,
        "last_task_id": None,
    }
    assert often["last_task_id"] in {task["task_id"] for task in (await client.get("/tasks")).json()}
    assert datetime.fromisoformat(often["last_run"]).microsecond == 0
    assert (once["name"], once["kind"], once["next_run"]) == ("mail:7", "once", "2199-03-01T12:00:00Z")
    assert "secret" not in answer.text


@pytest.mark.parametrize("name", ["nightly", "report */5 * * * *", "ü/ö"])
async def test_a_schedule_is_run_paused_and_resumed_and_each_is_audited(
    client: httpx.AsyncClient, engine: House, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "taskflow_otel.audit")
    engine.schedule(name)
    path = f"/tasks/schedules/{quote(name, safe='')}"
    answer = await client.post(f"{path}/run")
    assert answer.status_code == 202
    assert answer.json()["tags"] == {"schedule": name}
    assert "args" not in answer.json()
    paused = (await client.post(f"{path}/pause?reason=full")).json()
    assert (paused["paused"], paused["paused_by"], paused["paused_reason"]) == (True, None, "full")
    assert paused["paused_since"] is not None
    assert (await client.get("/tasks/schedules")).json()[0]["paused_reason"] == "full"
    assert engine.schedule_of(name).paused
    resumed = (await client.post(f"{path}/resume")).json()
    assert (resumed["paused"], resumed["paused_since"], resumed["paused_reason"]) == (False, None, None)
    assert [vars(record)["action"] for record in caplog.records if record.name == "taskflow_otel.audit"] == [
        "run-schedule",
        "pause-schedule",
        "resume-schedule",
    ]


@pytest.mark.parametrize("verb", ["run", "pause", "resume"])
async def test_an_unknown_schedule_is_a_404_that_says_what_to_look_for(client: httpx.AsyncClient, verb: str) -> None:
    answer = await client.post(f"/tasks/schedules/other/{verb}")
    assert answer.status_code == 404
    assert "no schedule named 'other'" in answer.json()["detail"]


async def test_nobody_acts_on_a_schedule_where_the_page_is_read_only(client_of: object, engine: House) -> None:
    engine.schedule("nightly")
    client: httpx.AsyncClient = client_of(read_only=True)  # type: ignore[operator]  # a factory
    assert (await client.post("/tasks/schedules/nightly/pause")).status_code == 403
    assert not engine.schedule_of("nightly").paused


async def test_a_real_manager_answers_for_its_schedules() -> None:
    app, manager = FastAPI(), TaskManager()

    @manager.schedule(cron="*/5 * * * *", overlap="skip")
    async def report() -> None: ...

    TaskAdmin(app, manager)
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        run_at = datetime.now(UTC) + timedelta(hours=1)
        await manager.schedule_once(report, run_at=run_at, run_key="later")
        listed = (await client.get("/tasks/schedules")).json()
        assert [(row["name"], row["kind"]) for row in listed] == [("report", "recurring"), ("later", "once")]
        task_id = (await client.post("/tasks/schedules/report/run")).json()["task_id"]
        await manager.wait(task_id, 20)
        assert (await client.post("/tasks/schedules/report/pause")).json()["next_run"] is None
        assert manager.schedules()[0].paused


@pytest.mark.browser
async def test_the_page_shows_schedules_and_lets_an_operator_act(opened: OpenPage, engine: House) -> None:
    engine.schedule("nightly")
    engine.schedule("often", every=1)
    await engine.manager.update_queue_config("mail", max_size=0)
    engine.manager.schedule(every=1, name="<b>hostile</b>", queue="mail")(refused)
    await engine.manager.pause_queue("mail")
    await eventually(lambda: engine.schedule_of("<b>hostile</b>").errors > 0, "a run that the queue refuses")
    in_an_hour = datetime.now(UTC) + timedelta(hours=1, minutes=1)
    engine.manager.task()(remind)
    await engine.manager.schedule_once(remind, run_at=in_an_hour, run_key="mail:7")
    async with opened("?view=schedules") as page:
        row = page.get_by_role("row").filter(has_text="nightly")
        await expect(row).to_contain_text("every 60 s")
        await expect(row).to_contain_text(re.compile(r"in \d+ s"))
        hostile = page.get_by_role("row").filter(has_text="<b>hostile</b>").get_by_role("cell")
        for number in (hostile.nth(5), hostile.nth(6)):
            await expect(number).to_have_text(re.compile(r"^[1-9]\d*$"))
        await expect(page.get_by_role("row").filter(has_text="mail:7")).to_contain_text("in 1 h")
        await row.get_by_role("button", name="Pause").click()
        await page.get_by_label("Reason").fill("the disk is full")
        await page.get_by_role("button", name="Pause the schedule").click()
        await expect(row).to_contain_text("paused")
        await expect(row).to_contain_text(re.compile("(now|ago): the disk is full"))
        await row.get_by_role("button", name="Resume").click()
        await expect(row.get_by_role("button", name="Pause")).to_be_visible()
        await row.get_by_role("button", name="Run now").click()
        await expect(page.get_by_text("nightly runs")).to_be_visible()
        tags = {"schedule": "nightly"}
        await eventually(lambda: any(one.tags == tags for one in engine.records.values()), "the run in the ledger")
        await page.get_by_role("row").filter(has_text="often").get_by_role("link").click()
        await expect(page.get_by_role("heading", name="send_report")).to_be_visible()


@pytest.mark.browser
async def test_a_phone_shows_schedules_without_scrolling_sideways(opened: OpenPage, engine: House) -> None:
    engine.schedule("a_schedule_with_quite_a_long_name" * 4, cron="*/5 1-23 * * mon-fri")
    async with opened("?view=schedules", viewport=(360, 740)) as page:
        await expect(page.get_by_role("button", name="Run now")).to_be_visible()
        await is_read(page)
        assert await page.evaluate("document.documentElement.scrollWidth") == 360
