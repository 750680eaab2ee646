from __future__ import annotations

import inspect
from datetime import datetime, timedelta

import httpx
import pytest

from taskflow_otel.model.cipher import ENCRYPTED_PREFIX
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.runtime.clock import SYSTEM_CLOCK
from taskflow_otel.web import argument_search, tasks_api
from taskflow_otel.web.answers import task_out
from taskflow_otel.web.params import task_filter
from tests.managers import Gate, finish, status_of
from tests.turns import Turns
from tests.web.conftest import ClientOf
from tests.web.house import House, make_record

SPEC_FIELDS = {
    "task_id", "func_name", "status", "created_at", "run_at", "start_time", "end_time", "duration", "attempt",
    "retries_used", "error", "error_type", "stacktrace", "logs", "tags", "idempotency_key", "source", "priority",
    "executor", "queue", "instance", "trace_id", "span_id", "progress", "reason", "timeline", "retry_of", "retried_by",
    "duplicate_of", "damage", "due_at", "fingerprint",
}  # fmt: skip


async def test_tasks_are_listed_newest_first_with_the_fields_of_the_specification(
    client: httpx.AsyncClient, engine: House
) -> None:
    ids = [engine.put(make_record()).task_id for _ in range(3)]
    answer = await client.get("/tasks")
    assert [task["task_id"] for task in answer.json()] == ids[::-1]
    assert set(answer.json()[0]) == SPEC_FIELDS
    assert datetime.fromisoformat(answer.json()[0]["created_at"]).utcoffset() == timedelta(0)


async def test_the_list_answers_with_and_without_a_slash(client: httpx.AsyncClient, engine: House) -> None:
    engine.put(make_record())
    with_slash, without = await client.get("/tasks/"), await client.get("/tasks")
    assert with_slash.status_code == without.status_code == 200
    assert with_slash.json() == without.json()


async def test_following_the_cursor_gives_every_task_once(client: httpx.AsyncClient, engine: House) -> None:
    ids = [engine.put(make_record()).task_id for _ in range(7)]
    seen: list[str] = []
    address: httpx.URL | None = httpx.URL("http://test/tasks?limit=3&func_name=send_email")
    while address is not None:
        answer = await client.get(address)
        assert answer.headers["X-Total-Count"] == "7"
        seen += [task["task_id"] for task in answer.json()]
        following = answer.links.get("next")
        assert (following is None) == ("X-Next-Cursor" not in answer.headers)
        address = address.join(following["url"]) if following else None
    assert seen == ids[::-1]


SELECTED = [
    ("status=failed", {"failed"}),
    ("func_name=build_report", {"report"}),
    ("queue=mail", {"mail"}),
    ("tag=tenant:acme", {"tagged"}),
    ("tag=tenant=acme", {"tagged"}),
    ("tag=tenant", {"tagged"}),
    ("tag=tenant:other", set()),
    ("source=retry", {"retry"}),
    ("since=1h", {"failed", "report", "mail", "tagged", "retry"}),
    ("until=1h", {"old"}),
    ("ended_since=1h", {"failed", "report", "mail", "tagged", "retry"}),
    ("ended_until=1h", {"old"}),
    ("q=boom", {"failed"}),
    ("func_name_prefix=build_", {"report"}),
    ("error=oom", {"failed"}),
    ("min_duration=500ms", set()),
    ("max_duration=0.3", set()),
    (f"trace_id={'c' * 32}", set()),
    (f"fingerprint={'a' * 16}", set()),
    ("status=failed&queue=mail", set()),
]


def test_no_filter_is_forgotten_here() -> None:
    assert {query.partition("=")[0] for query, _ in SELECTED} == {*inspect.signature(task_filter).parameters}


@pytest.mark.parametrize(("query", "expected"), SELECTED)
async def test_each_filter_selects(client: httpx.AsyncClient, engine: House, query: str, expected: set[str]) -> None:
    ids = {
        name: engine.put(record).task_id
        for name, record in {
            "old": make_record(age=7200),
            "failed": make_record(status=TaskStatus.FAILED, error="boom"),
            "report": make_record("build_report"),
            "mail": make_record(queue="mail"),
            "tagged": make_record(tags={"tenant": "acme"}),
            "retry": make_record(source="retry"),
        }.items()
    }
    answer = await client.get(f"/tasks?{query}")
    assert {task["task_id"] for task in answer.json()} == {ids[name] for name in expected}
    assert answer.headers["X-Total-Count"] == str(len(expected))


async def test_a_total_that_was_not_counted_to_its_end_says_so(
    client: httpx.AsyncClient, engine: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks_api, "COUNT_LIMIT", 5)
    for number in range(7):
        engine.put(make_record(queue="mail" if number < 2 else "default"))
    for query, total, exact in (("", "5", "false"), ("?limit=2", "5", "false"), ("?queue=mail", "2", "true")):
        headers = (await client.get(f"/tasks{query}")).headers
        assert (headers["X-Total-Count"], headers["X-Total-Count-Exact"]) == (total, exact)


async def test_a_search_that_ended_early_continues_from_its_cursor(client: httpx.AsyncClient, engine: House) -> None:
    engine.backend.window = 2
    needle = engine.put(make_record("needle"))
    for _ in range(3):
        engine.put(make_record())
    first = await client.get("/tasks?q=needle")
    assert first.json() == []
    assert (first.headers["X-Total-Count"], first.headers["X-Total-Count-Exact"]) == ("0", "false")
    second = await client.get("/tasks" + first.links["next"]["url"])
    assert [task["task_id"] for task in second.json()] == [needle.task_id]
    assert "X-Next-Cursor" not in second.headers


def order(number: int) -> str:
    return f'{{"v":1,"names":["order"],"args":[{number}],"kwargs":{{}}}}'


async def test_tasks_are_found_by_their_arguments_and_the_answer_says_how_far_it_looked(
    client_of: ClientOf, engine: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(argument_search.search, "__kwdefaults__", {"clock": SYSTEM_CLOCK, "rows": 3})
    client = client_of(display_func_args=True)
    records = [engine.put(make_record(payload=order(number))) for number in (782, 1, 2, 3, 782)]
    records += [engine.put(make_record(payload="fernet1:x")), engine.put(make_record("other", payload=order(782)))]
    first = await client.get("/tasks?args=order:782&func_name=send_email")
    assert [task["task_id"] for task in first.json()] == [records[4].task_id]
    assert first.json()[0]["args"] == [782]
    assert (first.headers["X-Total-Count"], first.headers["X-Total-Count-Exact"]) == ("1", "false")
    assert (first.headers["X-Searched-Count"], first.headers["X-Unsearchable-Count"]) == ("2", "1")
    assert datetime.fromisoformat(first.headers["X-Searched-Back-To"]) == records[3].created_at
    second = await client.get("/tasks" + first.links["next"]["url"])
    assert "args=order%3A782" in str(second.url)
    assert [task["task_id"] for task in second.json()] == [records[0].task_id]
    assert "X-Next-Cursor" not in second.headers
    both = await client.get("/tasks", params={"args": "order:782 0:782", "func_name": "other"})
    assert (len(both.json()), both.headers["X-Total-Count-Exact"]) == (1, "true")
    # Other lists do not say that they have searched.
    assert "X-Searched-Count" not in (await client.get("/tasks")).headers


async def test_no_one_searches_arguments_that_are_hidden_and_what_means_nothing_is_refused(
    client_of: ClientOf, engine: House
) -> None:
    engine.put(make_record(payload=order(782)))
    hidden, shown = client_of(), client_of(display_func_args=True)
    engine.backend.queries.clear()
    answers = [await hidden.get("/tasks", params={"args": f"order:{number}"}) for number in (782, 783)]
    # An answer that is the same for every value says nothing of the arguments.
    assert {(answer.status_code, answer.text) for answer in answers} == {(422, answers[0].text)}
    assert "arguments are hidden" in answers[0].json()["detail"]
    assert engine.backend.queries == []
    for text, said in {
        "order:": "name:value",
        "a\x00b": "NUL",
        "a..b:1": "is not the name",
        "x" * 1_001: "1000",
    }.items():
        refused = await shown.get("/tasks", params={"args": text})
        assert (refused.status_code, refused.json()["fields"]) == (422, ["args"]), text
        assert said in refused.json()["detail"], text
    # What another reading route would answer is not what this filter selects.
    for route in ("stats", "failures"):
        refused = await shown.get(f"/tasks/{route}?args=order:782")
        assert (refused.status_code, refused.json()["fields"]) == (422, ["args"])
        assert "only the list can be filtered by arguments" in refused.json()["detail"]


async def test_one_task_comes_with_its_log_error_and_timeline(client: httpx.AsyncClient, engine: House) -> None:
    record = engine.put(
        make_record(status=TaskStatus.FAILED, error="boom", error_type="OSError", stacktrace="Traceback")
    )
    engine.log(record, "first")
    engine.log(record, "second", "warning", code=451)
    task = (await client.get(f"/tasks/{record.task_id}")).json()
    assert set(task) >= SPEC_FIELDS
    assert (task["error"], task["error_type"], task["stacktrace"]) == ("boom", "OSError", "Traceback")
    assert [(line["message"], line["level"], line["extra"]) for line in task["logs"]] == [
        ("first", "info", {}),
        ("second", "warning", {"code": 451}),
    ]
    assert [entry["transition"] for entry in task["timeline"]] == ["enqueued", "started", "failed"]
    assert set(task["timeline"][0]) == {"transition", "timestamp", "attempt", "instance", "reason"}


PAYLOAD = '{"v":1,"args":["ada@example.com"],"kwargs":{"copies":2}}'


@pytest.mark.parametrize(
    ("display", "payload", "expected"),
    [
        (False, PAYLOAD, ("absent", "absent")),
        (True, PAYLOAD, (["ada@example.com"], {"copies": 2})),
        (True, ENCRYPTED_PREFIX + "x", (None, None)),
        (True, "damaged", (None, None)),
        (True, None, (None, None)),
    ],
)
async def test_arguments_are_shown_only_where_allowed_and_readable(
    client_of: ClientOf, engine: House, display: bool, payload: str | None, expected: tuple[object, object]
) -> None:
    record = engine.put(make_record(payload=payload))
    client = client_of(display_func_args=display)
    for task in ((await client.get("/tasks")).json()[0], (await client.get(f"/tasks/{record.task_id}")).json()):
        assert (task.get("args", "absent"), task.get("kwargs", "absent")) == expected


@pytest.mark.parametrize(
    ("action", "status", "code"),
    [
        ("retry", TaskStatus.FAILED, 202),
        ("retry", TaskStatus.RUNNING, 409),
        ("cancel", TaskStatus.PENDING, 202),
        ("cancel", TaskStatus.RUNNING, 202),
        ("cancel", TaskStatus.SUCCESS, 409),
    ],
)
async def test_an_action_is_accepted_or_refused_with_the_reason(
    client: httpx.AsyncClient, engine: House, action: str, status: TaskStatus, code: int
) -> None:
    record = engine.put(make_record(status=status))
    answer = await client.post(f"/tasks/{record.task_id}/{action}")
    assert answer.status_code == code
    if code == 409:
        assert status in answer.json()["detail"]
    elif action == "retry":
        assert answer.json()["retry_of"] == record.task_id
        assert engine.records[record.task_id].retried_by == answer.json()["task_id"]
    else:
        # Its instance is asked to.
        assert engine.records[record.task_id].cancel_requested


@pytest.mark.parametrize("status", [TaskStatus.PENDING, TaskStatus.RUNNING])
async def test_a_task_of_the_instance_that_answers_is_cancelled(
    client: httpx.AsyncClient, engine: House, status: TaskStatus
) -> None:
    gate = Gate()
    task_id = await engine.manager.enqueue(gate.run, delay=60 if status is TaskStatus.PENDING else 0)
    if status is TaskStatus.RUNNING:
        await gate.entered.wait()
    assert await status_of(engine.manager, task_id) is status
    answer = await client.post(f"/tasks/{task_id}/cancel")
    assert answer.status_code == 202
    assert (await finish(engine.manager, task_id)).status is TaskStatus.CANCELLED
    assert gate.cancelled is (status is TaskStatus.RUNNING)


@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("POST", "/retry"), ("POST", "/cancel")])
async def test_an_unknown_task_is_not_found(client: httpx.AsyncClient, method: str, suffix: str) -> None:
    answer = await client.request(method, f"/tasks/none{suffix}")
    assert answer.status_code == 404
    assert "none" in answer.json()["detail"]


@pytest.mark.parametrize("number", [0, 1, 50, 51, 300])
async def test_a_long_page_is_encoded_in_slices_and_is_one_array(
    client: httpx.AsyncClient, engine: House, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    for _ in range(number):
        engine.put(make_record())
    async with Turns() as turns:
        monkeypatch.setattr(tasks_api, "task_out", turns.counted(task_out))
        tasks = (await client.get("/tasks?limit=1000")).json()
    assert {task["task_id"] for task in tasks} == engine.records.keys()
    assert len(tasks) == turns.calls == number
    assert not number or turns.most <= 50
