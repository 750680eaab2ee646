"""What a task says beyond the caps is cut where it is said, in each executor; what was cut says so."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from taskflow_otel import TaskAdmin, TaskManager, TaskStatus, get_task_context, task_log
from taskflow_otel.model.plain import MAX_EXTRA_TEXT, MAX_ITEMS, MAX_NAME, MAX_PROGRESS_TEXT, MAX_TAG_TEXT, MAX_TAGS
from taskflow_otel.model.record import MAX_LOG_ENTRIES, MAX_LOG_TEXT, MAX_TEXT, Progress
from tests.asgi import running
from tests.faults.values import Broken
from tests.managers import finish, started

EXECUTORS = ["async", "thread", "process"]


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[TaskManager]:
    async with started(TaskManager(snapshot_db=tmp_path / "tasks.db", max_process_workers=1)) as manager:
        yield manager


def job_of(manager: TaskManager, function: Callable[[], None], executor: Any) -> Callable[..., Any]:
    """A persisted task of this function in an executor."""

    async def on_the_loop() -> None:
        function()

    declare = manager.task(persist=True, name="job", executor=executor)
    return declare(on_the_loop if executor == "async" else function)


def many_lines() -> None:
    for number in range(MAX_LOG_ENTRIES + 3):
        task_log(f"line {number}")


def long_lines() -> None:
    for _ in range(MAX_LOG_TEXT // MAX_TEXT + 3):
        task_log("x" * MAX_TEXT)
    task_log("short")


def large_extra() -> None:
    task_log("one", text="y" * (MAX_EXTRA_TEXT + 9))
    task_log("many", numbers=list(range(MAX_ITEMS + 9)))
    names: dict[str, Any] = {"n" * (MAX_NAME + 9): 1}
    task_log("names", **names)


@pytest.mark.parametrize("executor", EXECUTORS)
async def test_log_entries_beyond_their_number_are_counted(manager: TaskManager, executor: str) -> None:
    record = await finish(manager, await manager.enqueue(job_of(manager, many_lines, executor)))
    logs = await manager.engine.lookup.logs(record.task_id)
    assert [entry.message for entry in logs] == [f"line {number}" for number in range(MAX_LOG_ENTRIES)]
    assert record.logs_dropped == 3


@pytest.mark.parametrize("executor", EXECUTORS)
async def test_log_entries_beyond_their_size_are_counted(manager: TaskManager, executor: str) -> None:
    record = await finish(manager, await manager.enqueue(job_of(manager, long_lines, executor)))
    logs = await manager.engine.lookup.logs(record.task_id)
    assert sum(len(entry.message) for entry in logs) == MAX_LOG_TEXT
    assert len(logs) + record.logs_dropped == MAX_LOG_TEXT // MAX_TEXT + 4


@pytest.mark.parametrize("executor", EXECUTORS)
async def test_extra_values_are_cut_where_they_are_too_large(manager: TaskManager, executor: str) -> None:
    record = await finish(manager, await manager.enqueue(job_of(manager, large_extra, executor)))
    one, many, names = [entry.extra for entry in await manager.engine.lookup.logs(record.task_id)]
    assert one["text"].endswith("characters cut]")
    assert len(one["text"]) <= MAX_EXTRA_TEXT + 40
    assert many["numbers"][-1].endswith("items cut]")
    assert len(many["numbers"]) <= MAX_ITEMS + 1
    [name] = names
    assert name == "n" * MAX_NAME + "… [9 characters cut]"


NOT_FINITE = "which is not a finite number"
MARKS: list[tuple[tuple[Any, Any, Any], Progress]] = [
    ((1, 2, "half"), Progress(1, 2, "half")),
    ((math.nan, 2, None), Progress(0, 2, "[done was nan, which is not a finite number]")),
    (
        (-math.inf, math.inf, "m"),
        Progress(
            0, None, "m [done was -inf, which is not a finite number] [total was inf, which is not a finite number]"
        ),
    ),
    (("a", None, None), Progress(0, None, "[done was 'a', which is not a finite number]")),
    ((10**5000, 1, None), Progress(0, 1, "[done was <an integer of 16610 bits>, which is not a finite number]")),
    ((1, 1, "z" * (MAX_PROGRESS_TEXT + 5)), Progress(1, 1, "z" * MAX_PROGRESS_TEXT + "… [5 characters cut]")),
    ((1, 1, "\ud800\0"), Progress(1, 1, "\\ud800\\x00")),
]


def report(number: int) -> None:
    context = get_task_context()
    assert context is not None
    context.progress(*MARKS[number][0])


@pytest.mark.parametrize("number", range(len(MARKS)))
@pytest.mark.parametrize("executor", EXECUTORS)
async def test_a_progress_mark_is_finite_bounded_and_says_what_was_wrong(
    manager: TaskManager, executor: Any, number: int
) -> None:
    async def on_the_loop(number: int) -> None:
        report(number)

    job = manager.task(persist=True, name="job", executor=executor)(on_the_loop if executor == "async" else report)
    record = await finish(manager, await manager.enqueue(job, number))
    assert (record.status, record.progress) == (TaskStatus.SUCCESS, MARKS[number][1])


HOSTILE: list[dict[Any, Any]] = [
    {"</script><script>alert(1)</script>": "\n\ndata: forged\n\n"},
    {'a"}\n# TYPE forged counter\nforged_total{x="': 'b"} 1\nforged_total 1'},
    {"\ud800\0": "\udfff\0"},
    {"id": "1\r\nevent: reset\r\ndata: {}", "\u2028": "\u2029"},
    {("a", "b"): {1: [2]}, None: math.nan, Broken(): Broken(SystemExit)},
    {f"tag {number}": "v" * (MAX_TAG_TEXT + 7) for number in range(MAX_TAGS + 4)},
    {"n" * (MAX_NAME + 4): "x" * 1_000_000},
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
async def test_hostile_tags_are_data_on_the_list_the_stream_and_the_metrics_page(tmp_path: Path, number: int) -> None:
    app, manager = FastAPI(), TaskManager(snapshot_db=tmp_path / "tasks.db")
    TaskAdmin(app, manager)

    @manager.task(persist=True, name="job")
    async def job() -> None: ...

    async with (
        running(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
        aclosing(manager.stream.subscribe(manager.stream.cursor)) as frames,
    ):
        task_id = await manager.enqueue(job, tags=HOSTILE[number])
        record = await finish(manager, task_id)
        assert record.status is TaskStatus.SUCCESS
        assert (await manager.retry(task_id, rerun=True)).tags == record.tags
        assert len(record.tags) <= MAX_TAGS + 1
        for name, value in record.tags.items():
            assert len(name) <= MAX_NAME + 30
            assert len(value) <= MAX_TAG_TEXT + 30

        answer = await client.get("/tasks")
        again, listed = json.loads(answer.content)
        assert again["tags"] == listed["tags"] == record.tags
        assert len(answer.content) < 600_000
        for name, value in list(record.tags.items())[:3]:
            if ":" not in name and "=" not in name and "\\x00" not in name:
                found = await client.get("/tasks", params={"tag": f"{name}:{value}"})
                assert task_id in [task["task_id"] for task in found.json()]

        async with asyncio.timeout(20):
            data = await anext(frames)
        for event in data.decode().removesuffix("\n\n").split("\n\n"):
            lines = event.split("\n")
            assert [line.partition(": ")[0] for line in lines] == ["id", "event", "data"]
            assert json.loads(lines[2].removeprefix("data: "))["tags"] == record.tags

        page = (await client.get("/tasks/metrics", headers={"Accept": "text/plain"})).text
        assert "forged" not in {family.name for family in text_string_to_metric_families(page)}
