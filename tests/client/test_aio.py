"""The client: it has every operation of the API, and raises what the API answers."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, get_args, get_origin, get_type_hints

import httpx
import pytest
from fastapi import FastAPI

from taskflow_otel import QueueConfig, TaskAdmin, TaskManager
from taskflow_otel.client import AsyncClient, Client, Event, Filters, ListFilters, errors
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.ids import new_task_id
from taskflow_otel.model.status import TaskStatus
from tests.client.conftest import ClientOf
from tests.managers import started
from tests.web.house import House, make_record, send_report
from tests.web.users import USER, Directory

ODD = "a/b:c=d%2F é?#"
"""A name that a client must escape."""


@pytest.mark.parametrize("kind", [AsyncClient, Client])
def test_every_operation_has_a_method_that_takes_what_it_takes(app_of: Callable[..., FastAPI], kind: type) -> None:
    document = app_of().openapi()
    found = 0
    for path, methods in document["paths"].items():
        for operation in methods.values():
            name = operation["operationId"].removeprefix("tasks_")
            assert hasattr(kind, name), f"{path}: add a method {name} to client/aio.py"
            asked = {one["name"] for one in operation.get("parameters", ()) if one["in"] in {"path", "query"}}
            asked |= fields(operation.get("requestBody"), document)
            assert asked - taken(getattr(kind, name)) == set(), name
            found += 1
    assert found >= 26


@pytest.mark.parametrize("kind", [AsyncClient, Client])
def test_each_method_returns_what_the_document_says(app_of: Callable[..., FastAPI], kind: type) -> None:
    pages = {
        "Page": "TaskOut",
        "AuditPage": "AuditOut",
        "OperationPage": "OperationOut",
        "ResultPage": "OperationItemOut",
    }
    texts = {"get_metrics": str, "get_events": Event}
    for methods in app_of().openapi()["paths"].values():
        for operation in methods.values():
            name = operation["operationId"].removeprefix("tasks_")
            returned = get_type_hints(getattr(kind, name))["return"]
            parts = get_args(returned)
            if name in texts:
                assert texts[name] in {returned, *parts}, name
                continue
            [schema] = {
                json.dumps(answer["content"]["application/json"]["schema"], sort_keys=True)
                for status, answer in operation["responses"].items()
                if status.startswith("2")
            }
            listed = json.loads(schema).get("type") == "array"
            model = re.findall(r"#/components/schemas/(\w+)", schema)
            if returned.__name__ in pages:
                assert (listed, model) == (True, [pages[returned.__name__]]), name
                [items] = [one for one in get_type_hints(returned).values() if get_origin(one) is list]
                assert [one.__name__ for one in get_args(items)] == model
            elif listed:
                assert (get_origin(returned), [one.__name__ for one in parts]) == (list, model), name
            else:
                assert [returned.__name__] == model, name


def taken(method: Callable[..., Any]) -> set[str]:
    """The names of the arguments that a method takes."""
    parameters = inspect.signature(method).parameters
    kinds = {"Unpack[Filters]": Filters, "Unpack[ListFilters]": ListFilters}
    given = [kinds[one.annotation] for one in parameters.values() if one.kind is inspect.Parameter.VAR_KEYWORD]
    return {*parameters, *(name for one in given for name in get_type_hints(one))}


def fields(body: Any, document: dict[str, Any]) -> set[str]:
    """The names of the fields of a request body."""
    if body is None:
        return set()
    [schema] = [one["schema"] for one in body["content"].values()]
    references = [one["$ref"] for one in (schema, *schema.get("anyOf", ())) if "$ref" in one]
    return {name for one in references for name in document["components"]["schemas"][one.split("/")[-1]]["properties"]}


async def test_tasks_are_listed_page_by_page_found_and_read(client: AsyncClient, engine: House) -> None:
    put = [engine.put(make_record(age=age, tags={"team": "blue"})).task_id for age in (30, 20, 10)]
    engine.put(make_record("build_report", TaskStatus.FAILED, error="no paper", error_type="OSError"))
    page = await client.list_tasks(limit=2)
    assert (len(page.tasks), page.total, page.total_exact) == (2, 4, True)
    assert page.next_cursor == page.tasks[-1].task_id
    tagged = [task.task_id async for task in client.iter_tasks(limit=1, tag="team:blue", since=timedelta(hours=1))]
    assert tagged == put[::-1]
    until = datetime.now(UTC) - timedelta(seconds=15)
    assert [task.task_id async for task in client.iter_tasks(until=until, tag="team")] == put[1::-1]
    assert (await client.get_task(put[0])).tags == {"team": "blue"}
    assert (await client.get_stats(status="failed")).failed == 1
    assert (await client.get_stats(exact=True)).total == 4
    assert (await client.get_type("build_report", window="7d")).failed == 1
    assert {one.func_name for one in (await client.list_types()).types} >= {"send_email", "build_report"}
    assert (await client.list_failures()).groups[0].error_type == "OSError"


async def test_a_search_by_arguments_says_how_far_it_came(client_of: ClientOf, engine: House) -> None:
    payload = '{"v":1,"names":["order"],"args":[%d],"kwargs":{}}'
    records = [engine.put(make_record(payload=payload % number)) for number in (782, 5)]
    engine.put(make_record(payload="fernet1:x"))
    client = client_of(display_func_args=True)
    page = await client.list_tasks(args="order:782")
    assert [task.task_id for task in page.tasks] == [records[0].task_id]
    assert (page.total, page.total_exact, page.searched, page.unsearchable) == (1, False, 2, 1)
    assert page.back_to == records[0].created_at
    assert [task.task_id async for task in client.iter_tasks(args="5", limit=1)] == [records[1].task_id]
    other = await client.list_tasks()
    assert (other.searched, other.unsearchable, other.back_to) == (None, None, None)


async def test_tasks_are_retried_and_cancelled(client: AsyncClient, engine: House) -> None:
    failed = [engine.put(make_record(status=TaskStatus.FAILED)).task_id for _ in range(4)]
    assert (await client.retry_task(failed[0])).retry_of == failed[0]
    with pytest.raises(errors.TaskStateError, match=r"\(409\)"):
        await client.cancel_task(failed[1])
    assert (await client.bulk_retry(func_name="send_email", dry_run=True)).matched == 3
    assert [one.task_id for one in (await client.bulk_retry([failed[1]])).retried] == [failed[1]]
    assert len((await client.retry_failed(limit=1)).retried) == 1
    assert (await client.bulk_cancel(failed[:2])).cancelled == []
    assert (await client.delete_history(before=timedelta(days=1))).deleted == 0
    assert (await client.delete_history(func_name="send_email", dry_run=True)).matched >= 4
    key = "a key"
    first = await client.bulk_retry([failed[3]], idempotency_key=key, reason="why")
    assert (await client.bulk_retry([failed[3]], idempotency_key=key)).operation_id == first.operation_id
    operation = await client.get_operation(first.operation_id or "")
    assert (operation.kind, operation.reason, operation.status) == ("retry", "why", "done")
    assert [item.task_id for item in (await client.list_results(operation.operation_id)).items] == [failed[3]]
    page = await client.list_operations(kind="retry", limit=1)
    assert page.operations == [operation]
    assert len((await client.list_operations(cursor=page.next_cursor)).operations) >= 2
    with pytest.raises(errors.OperationNotFoundError):
        await client.get_operation("none")


async def test_queues_and_schedules_are_changed_whatever_their_name_is() -> None:
    manager, app = TaskManager(queues={ODD: QueueConfig(concurrency=3), "..": QueueConfig()}), FastAPI()
    TaskAdmin(app, manager)
    for name in (ODD, "."):
        manager.schedule(name=name, every=3600)(send_report)
    async with started(manager), httpx.AsyncClient(transport=httpx.ASGITransport(app)) as http:
        client = AsyncClient("http://test/tasks", http=http)
        for name in (ODD, ".."):
            assert (await client.pause_queue(name)).paused is True
            assert (await client.resume_queue(name)).paused is False
            assert (await client.configure_queue(name, max_size=5)).max_size == 5
            assert (await client.configure_queue(name, concurrency=None)).concurrency is None
        for name in (ODD, "."):
            assert (await client.pause_schedule(name)).paused is True
            assert (await client.resume_schedule(name)).paused is False
            assert (await client.run_schedule(name)).source == "manual"
        assert {queue.name for queue in await client.list_queues()} == {"default", ODD, ".."}
        assert {schedule.name for schedule in await client.list_schedules()} == {ODD, "."}


async def test_the_fleet_is_read_and_a_probe_that_says_no_is_an_answer(client: AsyncClient, engine: House) -> None:
    assert [one.answering for one in await client.list_instances()].count(True) == 1
    assert (await client.get_overview(window="15m")).window_seconds == 900
    assert "taskflow_build_info" in await client.get_metrics()
    assert '"success_rate"' in await client.get_metrics(accept="application/json")
    assert (await client.get_session()).can_act is True
    assert (await client.get_liveness()).status == (await client.get_readiness()).status == "ok"
    engine.backend.unreadable = BackendUnavailableError("the disk is gone")
    assert (await client.get_health()).reasons == ["the backend does not work: the disk is gone"]


async def test_each_problem_is_an_exception_with_its_fields(client_of: ClientOf, engine: House) -> None:
    client = client_of()
    with pytest.raises(errors.TaskNotFoundError) as not_found:
        await client.get_task(new_task_id())
    assert isinstance(not_found.value, LookupError)
    assert not_found.value.type == "/tasks/problems#task-not-found"
    with pytest.raises(errors.QueueNotFoundError):
        await client.pause_queue("none")
    with pytest.raises(errors.ScheduleNotFoundError):
        await client.run_schedule("none")
    with pytest.raises(errors.InvalidInputError) as invalid:
        await client.list_tasks(since="yesterday")
    assert invalid.value.fields == ("since",)
    with pytest.raises(errors.InvalidInputError):
        await client.bulk_retry()
    engine.backend.unreadable = BackendUnavailableError("the disk is gone")
    with pytest.raises(errors.BackendUnavailableError, match="the disk is gone") as unavailable:
        await client.list_tasks()
    assert unavailable.value.retry_after == 1.0
    engine.backend.unreadable = RuntimeError("a secret")
    with pytest.raises(errors.ServerError) as failed:
        await client.list_tasks()
    assert "secret" not in str(failed.value)
    with pytest.raises(errors.ReadOnlyError):
        await client_of(read_only=True).pause_queue("mail")
    with pytest.raises(errors.LoginRequiredError):
        await client_of(auth=USER).list_queues()
    with pytest.raises(errors.NotAllowedError):
        await client_of(auth=Directory(), login=("vic", "right")).pause_queue("mail")
