"""Whatever user code says, on every backend: it damages nothing but its own line.

The number of generated cases on each backend is 25, or that of the environment variable `TASKFLOW_EXAMPLES`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Mapping
from typing import Any, NoReturn

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from taskflow_otel import TaskAdmin, TaskflowError, TaskManager, TaskStatus, get_task_context, task_log
from tests.asgi import running
from tests.backends.conftest import FACTORIES, BackendFactory
from tests.faults.child import say
from tests.faults.values import NASTY_OBJECTS, Said, anything, boxed, numbers, texts
from tests.managers import finish

EXAMPLES = int(os.environ.get("TASKFLOW_EXAMPLES", "25"))
SHUTDOWN = 60.0
"""Seconds in which a shutdown that takes a moment is over on a busy machine."""


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """One of the values, or nothing at all."""
    return st.none() | values


OPTIONS = {
    "tags": maybe(st.dictionaries(anything(hashable=True), anything(), max_size=3) | anything()),
    "idempotency_key": maybe(texts() | anything()),
    "priority": maybe(numbers()),
    "queue": st.none() | st.none() | texts(),
    "delay": st.none() | st.none() | numbers() | anything(),
    "run_at": st.none() | st.none() | st.none() | st.datetimes() | anything(),
    "eager": maybe(st.booleans() | anything()),
}
SAYINGS = {
    "task": st.sampled_from(["persisted", "kept_by_thread", "history", "in_thread", "undecorated"]),
    "argument": anything(),
    "message": texts() | anything(),
    "level": st.sampled_from(["debug", "info", "warning", "error"]),
    "extra": st.dictionaries(texts(), anything(), max_size=3),
    "done": numbers() | anything(),
    "total": maybe(numbers() | anything()),
    "progress": maybe(texts() | anything()),
    "error": maybe(anything()),
}


def refuse_constant(name: str) -> NoReturn:
    raise AssertionError(f"{name} is no JSON")


def strict_json(text: str | bytes) -> Any:
    """What a JSON text says; raises for what Python's parser takes beyond the standard."""
    return json.loads(text, parse_constant=refuse_constant)


class SaidError(Exception):
    """An exception whose text is whatever it was made of."""


class Stage:
    """One manager with its application, on which the generated cases appear one after the other."""

    def __init__(self, manager: TaskManager) -> None:
        self.manager = manager
        self.says: Mapping[str, Any] = {}
        self.frames: list[bytes] = []
        persisted, history = manager.task(persist=True), manager.task()

        @persisted
        async def persisted_task(argument: Any) -> None:
            self.speak()

        @persisted
        def kept_by_thread(argument: Any) -> None:
            self.speak()

        @history
        async def history_task(argument: Any) -> None:
            self.speak()

        @history
        def in_thread(argument: Any) -> None:
            self.speak()

        def undecorated(argument: Any) -> None:
            self.speak()

        self.tasks = {
            "persisted": persisted_task,
            "kept_by_thread": kept_by_thread,
            "history": history_task,
            "in_thread": in_thread,
            "undecorated": undecorated,
        }
        self.sound = manager.task(persist=True, name="sound")(_sound)

    def speak(self) -> None:
        """What user code may say in a task."""
        says = self.says
        extra = {key: value for key, value in says["extra"].items() if key not in {"message", "level"}}
        task_log(says["message"], level=says["level"], **extra)
        context = get_task_context()
        assert context is not None
        # What is no number is refused at the call.
        with contextlib.suppress(TaskflowError):
            context.progress(says["done"], says["total"], message=says["progress"])
        if says["error"] is not None:
            raise SaidError(says["error"])

    async def watch(self) -> None:
        """Keep what the live stream sends."""
        async for frame in self.manager.stream.subscribe():
            self.frames.append(frame)

    async def play(self, client: httpx.AsyncClient, said: Mapping[str, Any]) -> None:
        """One case, and what others see at the same time."""
        self.says = said
        options = {name: said[name] for name in OPTIONS if said[name] is not None}
        task_id: str | None = None
        try:
            task_id = await self.manager.enqueue(self.tasks[said["task"]], said["argument"], **options)
        except TaskflowError:
            # Refused at the call: user code hears of it.
            assert len(options) > 0 or said["task"] != "undecorated"
        if task_id is not None:
            if {"delay", "run_at"} & options.keys():
                with contextlib.suppress(TaskflowError):
                    await self.manager.cancel(task_id)
            record = await finish(self.manager, task_id)
            assert record.status is not TaskStatus.RUNNING
        sound = await finish(self.manager, await self.manager.enqueue(self.sound, 1))
        assert sound.status is TaskStatus.SUCCESS
        page = await client.get("/tasks?limit=10")
        assert page.status_code == 200
        listed = {task["task_id"]: task for task in strict_json(page.content)}
        assert sound.task_id in listed
        if task_id is not None:
            detail = await client.get(f"/tasks/{task_id}")
            assert detail.status_code == 200
            assert strict_json(detail.content)["damage"] is None

    async def look_around(self, client: httpx.AsyncClient) -> None:
        """All that must have survived the cases."""
        for path in ("/tasks?limit=1000", "/tasks/stats", "/tasks/failures", "/tasks/queues", "/tasks/instances"):
            answer = await client.get(path)
            assert answer.status_code == 200, path
            strict_json(answer.content)
        text = await client.get("/tasks/metrics", headers={"accept": "text/plain"})
        assert len(list(text_string_to_metric_families(text.text))) > 10
        text = await client.get("/tasks/metrics", headers={"accept": "application/openmetrics-text"})
        assert len(list(openmetrics_families(text.text))) > 10
        health = await client.get("/tasks/health")
        assert health.status_code == 200
        assert self.frames
        for line in b"".join(self.frames).split(b"\n"):
            if line.startswith(b"data:"):
                strict_json(line.removeprefix(b"data:").decode())


async def _sound(number: int) -> None:
    assert number == 1


@pytest.mark.parametrize("kind", sorted(FACTORIES))
async def test_whatever_is_said_other_tasks_the_list_the_stream_the_metrics_and_the_shutdown_do_not_notice(
    request: pytest.FixtureRequest, kind: str
) -> None:
    factory: BackendFactory = FACTORIES[kind](request)
    app, manager = FastAPI(), TaskManager(snapshot_backend=factory(), snapshot_interval=0.05)
    TaskAdmin(app, manager, display_func_args=True)
    stage, loop = Stage(manager), asyncio.get_running_loop()

    async with asyncio.timeout(None) as limit, running(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            watching = asyncio.create_task(stage.watch())

            @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
            @given(boxed(st.fixed_dictionaries({**OPTIONS, **SAYINGS})))
            def cases(said: Said) -> None:
                asyncio.run_coroutine_threadsafe(stage.play(client, said.value), loop).result()

            await asyncio.to_thread(cases)
            await stage.look_around(client)
        limit.reschedule(loop.time() + SHUTDOWN)
    await watching
    assert manager.store.list() == []


@pytest.mark.parametrize("kind", sorted(FACTORIES))
async def test_whatever_a_child_process_says_its_task_ends_and_can_be_shown(
    request: pytest.FixtureRequest, kind: str
) -> None:
    factory: BackendFactory = FACTORIES[kind](request)
    app, manager = FastAPI(), TaskManager(snapshot_backend=factory(), max_process_workers=1)
    TaskAdmin(app, manager)
    job = manager.task(executor="process", persist=True)(say)
    async with running(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            ids = [await manager.enqueue(job, number) for number in range(len(NASTY_OBJECTS))]
            for task_id in ids:
                record = await manager.wait(task_id, 60)
                assert (record.status, record.error_type) == (TaskStatus.FAILED, "tests.faults.child.SaidError")
                detail = await client.get(f"/tasks/{task_id}")
                assert detail.status_code == 200
                assert len(strict_json(detail.content)["logs"]) == 1
            assert len(strict_json((await client.get("/tasks")).content)) == len(ids)
