"""Requests that schemathesis makes from the OpenAPI document, valid ones and others: no answer is outside of it.

Each user sends `CASES` valid and as many invalid requests to each route; `make schemathesis` sends thousands.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
import uvicorn
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from taskflow_otel import QueueConfig, TaskAdmin, TaskManager
from taskflow_otel.backends import Backend, PostgresBackend, SqliteBackend
from tests.web.users import Directory

_log = logging.getLogger(__name__)
CASES = int(os.environ.get("SCHEMATHESIS_CASES", "1"))
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ENDLESS = "/tasks/events"
"""The client of schemathesis reads an answer to its end, which this one does not have: of a stream, `begin` reads the
beginning, and other answers are checked like those of each route."""
ROLES = {"operator": ("ada", "right"), "viewer": ("vic", "right"), "anonymous": None}


@pytest.fixture(params=["sqlite", "postgres"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    if request.param == "postgres":
        return PostgresBackend(request.getfixturevalue("postgres_url"))
    return SqliteBackend(tmp_path / "tasks.db")


def application(backend: Backend) -> FastAPI:
    """An application with tasks of each state, queues and a schedule."""
    manager = TaskManager(snapshot_backend=backend, queues={"mail": QueueConfig(concurrency=1, max_size=20)})
    app = FastAPI()
    TaskAdmin(app, manager, auth=Directory(), secret_key="k" * 32, metrics_token="scrape")

    @manager.task(persist=True)
    async def succeed(number: int) -> None:
        """Do nothing."""

    @manager.task(persist=True, queue="mail")
    async def fail(number: int) -> None:
        raise ValueError(number)

    @manager.task(persist=True)
    async def wait(number: int) -> None:
        await asyncio.Event().wait()

    manager.schedule(every=3_600, name="nightly")(succeed_by_schedule)

    @app.post("/fill")
    async def fill() -> list[str]:
        ids = [await manager.enqueue(task, number) for task in (succeed, fail, wait) for number in range(5)]
        await asyncio.gather(*(manager.wait(task_id, 30) for task_id in ids[:10]))
        return ids

    return app


async def succeed_by_schedule() -> None:
    """Do nothing."""


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Serve an application from a thread."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", ws="none", lifespan="on"))
    begun = threading.Event()
    start = server.startup

    async def startup(*args: Any, **kwargs: Any) -> None:
        await start(*args, **kwargs)
        begun.set()

    server.startup = startup  # type: ignore[method-assign]  # the server has no signal for that
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert begun.wait(60)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)


@pytest.mark.timeout(3_600)
def test_every_answer_to_a_generated_request_is_documented_and_none_is_an_error_of_the_server(
    backend: Backend,
) -> None:
    app = application(backend)
    schema = schemathesis.openapi.from_dict(app.openapi())
    found: list[Any] = list(schema.get_all_operations())
    operations = [one.ok() for one in found]
    assert len(operations) >= 30
    assert [one.path for one in operations].count(ENDLESS) == 1
    answered: dict[str, Counter[int]] = {role: Counter() for role in ROLES}
    with served(app) as url, requests.Session() as session:
        ids = session.post(f"{url}/fill").json()
        # The anonymous one comes last: it guesses passwords, and is slowed down for that.
        for role, login in ROLES.items():
            for operation in operations:
                for mode in GenerationMode:
                    statuses = send(operation, mode, url, session, login, ids)
                    answered[role] += statuses
    for role, statuses in answered.items():
        assert sum(statuses.values()) >= CASES * len(operations), (role, statuses)
        _log.warning(
            "%s, %s: %d requests, %s", backend.name, role, sum(statuses.values()), dict(sorted(statuses.items()))
        )
    assert answered["operator"][200] > 10
    assert not answered["operator"].keys() & {401, 403, 429}
    assert not answered["viewer"].keys() & {401, 429}
    assert answered["anonymous"].keys() <= {200, 401, 429}


def send(
    operation: Any, mode: GenerationMode, url: str, session: requests.Session, login: Any, ids: list[str]
) -> Counter[int]:
    """Send generated requests to one route; returns the statuses of the answers, which are checked."""
    statuses: Counter[int] = Counter()

    @settings(max_examples=CASES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def requested(case: Any) -> None:
        if mode.is_positive and "task_id" in case.path_parameters and sum(statuses.values()) % 2:
            # A generated id is never that of a task.
            case.path_parameters["task_id"] = ids[sum(statuses.values()) % len(ids)]
        keywords: dict[str, Any] = {"auth": login} if login is not None else {}
        if operation.path == ENDLESS and begin(case, url, session, login):
            statuses[200] += 1
            return
        answer = case.call_and_validate(base_url=url, session=session, checks=CHECKS, timeout=30, **keywords)
        statuses[answer.status_code] += 1

    try:
        requested()
    except Unsatisfiable:
        # A route without parameters cannot be asked wrongly.
        assert mode.is_negative
        assert not statuses
    except Exception as error:
        error.add_note(f"{operation.method} {operation.path}, {mode} requests of {login}")
        raise
    return statuses


def begin(case: Any, url: str, session: requests.Session, login: Any) -> bool:
    """Read the beginning of a stream; `False` if the answer is not one."""
    asked = case.as_transport_kwargs(base_url=url)
    with session.request(**asked, auth=login, stream=True, timeout=30) as answer:
        if answer.status_code != 200:
            return False
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert next(answer.iter_content(64)).startswith(b"retry: ")
    return True
