"""The client: it has every operation of the API, and raises what the API answers."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, closing
from datetime import UTC, datetime, timedelta
from typing import Any, get_args, get_origin, get_type_hints

import httpx
import pytest
from fastapi import FastAPI

from taskflow_otel import QueueConfig, TaskAdmin, TaskManager
from taskflow_otel.client import AsyncClient, Client, Event, Filters, errors
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.ids import new_task_id
from taskflow_otel.model.status import TaskStatus
from tests.client.conftest import ClientOf
from tests.managers import started
from tests.web.conftest import Served
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
    filters = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    return {*parameters, *(Filters.__annotations__ if filters else ())}


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


async def test_a_client_logs_in_with_a_password_a_token_or_a_way_of_its_own(client_of: ClientOf) -> None:
    assert (await client_of(auth=USER, login=USER).get_session()).actor == USER[0]
    assert "taskflow" in await client_of(auth=USER, metrics_token="scrape", token="scrape").get_metrics()

    class Mine(httpx.Auth):
        def auth_flow(self, request: httpx.Request) -> Any:
            yield next(httpx.BasicAuth(*USER).auth_flow(request))

    mine: Any = Mine()
    assert (await client_of(auth=USER, login=mine).get_session()).actor == USER[0]


async def test_the_live_stream_is_read_and_continued_after_an_event_that_is_known(
    app_of: Callable[..., FastAPI],
    engine: House,
    serving: Callable[..., AbstractAsyncContextManager[Served]],
) -> None:
    async with serving(app_of()) as served, AsyncClient(f"{served.url}/tasks") as client:
        async with aclosing(client.get_events()) as events:
            begin = await anext(events)
            assert begin.kind == "begin"
            record = engine.put(make_record())
            assert (await anext(events)).data["task_id"] == record.task_id
        async with aclosing(client.get_events(after=begin.id)) as events:
            assert (await anext(events)).data["task_id"] == record.task_id


async def test_the_client_without_asyncio_reads_and_continues_the_live_stream_too(
    app_of: Callable[..., FastAPI],
    engine: House,
    serving: Callable[..., AbstractAsyncContextManager[Served]],
) -> None:
    async with serving(app_of()) as served:
        with Client(f"{served.url}/tasks") as client:
            with closing(client.get_events()) as events:
                begin = await asyncio.to_thread(next, events)
                assert (begin.kind, begin.data) == ("begin", {})
                records = [engine.put(make_record()) for _ in range(2)]
                found = [await asyncio.to_thread(next, events) for _ in records]
                assert [event.data["task_id"] for event in found] == [record.task_id for record in records]
                assert {event.kind for event in found} == {"task"}
            with closing(client.get_events(after=found[0].id)) as events:
                assert (await asyncio.to_thread(next, events)).data["task_id"] == records[1].task_id


class Cut(httpx.AsyncByteStream):
    """A body that breaks off."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._data
        raise httpx.ReadError("cut")


async def test_a_stream_that_breaks_off_continues_after_its_last_whole_event() -> None:
    asked: list[str | None] = []
    as_problem = {"Content-Type": "application/problem+json"}
    full = {"type": "/tasks/problems#too-many-streams", "title": "full", "status": 503, "detail": "full"}
    answers = [
        httpx.Response(200, stream=Cut(b"retry: 0\n\nid: 1\nevent: task\ndata: {}\n\nid: 2\ndata: {")),
        httpx.Response(503, json=full, headers={**as_problem, "Retry-After": "0"}),
        httpx.Response(200, content=b"id: 2\nevent: task\ndata: {}\n\n"),
        httpx.Response(
            401, json={**full, "type": "#login-required"}, headers={"Content-Type": "application/problem+json"}
        ),
    ]

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("Last-Event-ID"))
        return answers[len(asked) - 1]

    client = AsyncClient("http://test/tasks", http=httpx.AsyncClient(transport=httpx.MockTransport(answer)))
    events = client.get_events()
    found = [(await anext(events)).id, (await anext(events)).id]
    with pytest.raises(errors.LoginRequiredError):
        await anext(events)
    assert found == ["1", "2"]
    assert asked == [None, "1", "1", "2"]


async def test_a_stream_that_never_began_says_why_at_once() -> None:
    client = AsyncClient("http://127.0.0.1:1/tasks", timeout=5)
    with pytest.raises(errors.UnreachableError, match="cannot be reached"):
        await anext(client.get_events())
    await client.aclose()


async def test_a_request_without_an_answer_in_time_is_an_error_of_the_connection() -> None:
    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        gone.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, AsyncClient(f"http://127.0.0.1:{port}/tasks", timeout=0.05) as client:
        with pytest.raises(errors.UnreachableError, match="did not answer in time"):
            await client.list_queues()
        await gone.wait()
