"""A client that `openapi-python-client` generates from the OpenAPI document works."""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from taskflow_otel.model.status import TaskStatus
from tests.web.conftest import Served
from tests.web.house import House, make_record
from tests.web.users import USER

PACKAGE = "generated_tasks_client"


@pytest.fixture
def generated(
    tmp_path: Path, app_of: Callable[..., FastAPI], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Any]]:
    """A function that imports a module of a client which was generated just now."""
    (tmp_path / "openapi.json").write_text(json.dumps(app_of(auth=USER, metrics_token="m").openapi()))
    # The formatter of the generated code is of no use here.
    (tmp_path / "config.yml").write_text(f"post_hooks: []\npackage_name_override: {PACKAGE}\n")
    arguments = ["--path=openapi.json", "--config=config.yml", "--meta=none", f"--output-path={PACKAGE}"]
    done = subprocess.run(
        [sys.executable, "-m", "openapi_python_client", "generate", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stdout + done.stderr
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda module: importlib.import_module(f"{PACKAGE}.{module}" if module else PACKAGE)
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


async def test_a_generated_client_has_every_operation_and_works(
    generated: Callable[[str], Any],
    app_of: Callable[..., FastAPI],
    engine: House,
    serving: Callable[..., AbstractAsyncContextManager[Served]],
) -> None:
    app = app_of(auth=USER, metrics_token="m")
    for methods in app.openapi()["paths"].values():
        for operation in methods.values():
            assert hasattr(generated(f"api.taskflow.{operation['operationId']}"), "asyncio"), operation["operationId"]
    failed = engine.put(make_record(status=TaskStatus.FAILED, error="no paper"))

    @engine.manager.task()
    async def wait_forever() -> None:
        await asyncio.Event().wait()

    running = await engine.manager.enqueue(wait_forever)

    async def call(operation: str, *arguments: Any, **keywords: Any) -> Any:
        return await generated(f"api.taskflow.tasks_{operation}").asyncio(*arguments, client=client, **keywords)

    async with serving(app) as served:
        client = generated("").Client(base_url=served.url, httpx_args={"auth": USER}, raise_on_unexpected_status=True)
        async with client:
            statuses = generated("models").TaskStatus
            listed = await call("list_tasks", status=statuses.FAILED, limit=10)
            assert [(task.task_id, task.error) for task in listed] == [(failed.task_id, "no paper")]
            assert (await call("get_task", failed.task_id)).func_name == failed.func_name
            assert (await call("get_trace", failed.task_id)).task_id == failed.task_id
            retried = await call("retry_task", failed.task_id)
            assert retried.retry_of == failed.task_id
            conflict = await call("cancel_task", failed.task_id)
            assert (conflict.status, conflict.type_) == (409, "/tasks/problems#task-state")
            assert (await call("cancel_task", running)).task_id == running
            assert (await call("pause_queue", "mail")).paused is True
            assert engine.queues["mail"].paused
            bulk = await call("bulk_retry", body=generated("models").TaskIdsIn(task_ids=[failed.task_id]))
            assert [one.task_id for one in [*bulk.retried, *bulk.skipped]] == [failed.task_id]
            changed = await call("configure_queue", "mail", body=generated("models").QueueIn(max_size=None))
            assert changed.max_size is None
            assert (await call("get_readiness")).status == "ok"
            assert (await call("get_task", "none")).status == 404
