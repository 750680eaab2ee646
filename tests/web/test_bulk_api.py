"""Acting on many tasks at once, by their ids or by a filter."""

from __future__ import annotations

import asyncio
import inspect

import httpx
import pytest
from fastapi import FastAPI

from taskflow_otel import TaskAdmin
from taskflow_otel.engine.builder import TaskBuilder
from taskflow_otel.engine.retries import Retries
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.web.params import task_filter
from tests.turns import Turns
from tests.waiting import eventually
from tests.web.conftest import ClientOf
from tests.web.house import House, make_record
from tests.web.users import USER

FILTERS = [
    "status=failed",
    "func_name=report",
    "queue=mail",
    "tag=tenant:acme",
    "source=retry",
    "since=5m",
    "until=1h",
    "ended_since=1h",
    "ended_until=1h",
    f"trace_id={'c' * 32}",
    f"fingerprint={'a' * 16}",
    "func_name_prefix=re",
    "error=none",
    "min_duration=2s",
    "max_duration=0.1",
    "q=report",
    "func_name=report&queue=mail",
]


def test_no_filter_is_forgotten_here() -> None:
    assert {query.partition("=")[0] for query in FILTERS} == {*inspect.signature(task_filter).parameters}


async def test_bulk_retry_takes_what_it_can_and_says_why_it_skips_the_rest(
    client: httpx.AsyncClient, engine: House
) -> None:
    failed, running = (engine.put(make_record(status=status)) for status in (TaskStatus.FAILED, TaskStatus.RUNNING))
    answer = await client.post(
        "/tasks/bulk-retry", json={"task_ids": [failed.task_id, failed.task_id, running.task_id, "none"]}
    )
    assert answer.status_code == 202
    assert [pair["task_id"] for pair in answer.json()["retried"]] == [failed.task_id]
    assert {skip["task_id"] for skip in answer.json()["skipped"]} == {running.task_id, "none"}


async def test_no_action_means_the_tasks_with_an_argument_since_nobody_knows_all_of_them(
    client_of: ClientOf, engine: House
) -> None:
    record = engine.put(make_record(status=TaskStatus.FAILED, payload='{"v":1,"args":[],"kwargs":{"order":782}}'))
    client = client_of(display_func_args=True)
    for method, route in (
        ("POST", "bulk-retry"),
        ("POST", "retry-failed"),
        ("POST", "bulk-cancel"),
        ("DELETE", "history"),
    ):
        refused = await client.request(method, f"/tasks/{route}?args=order:782")
        assert (refused.status_code, refused.json()["fields"]) == (422, ["args"]), route
        assert "give the ids of the tasks" in refused.json()["detail"], route
    [found] = (await client.get("/tasks?args=order:782")).json()
    retried = await client.post("/tasks/bulk-retry", json={"task_ids": [found["task_id"]]})
    assert [one["task_id"] for one in retried.json()["retried"]] == [record.task_id]


async def test_retry_failed_takes_the_failures_of_the_window_that_nothing_has_retried(
    client: httpx.AsyncClient, engine: House
) -> None:
    engine.put(make_record(status=TaskStatus.FAILED, age=7 * 3600))
    engine.put(make_record(status=TaskStatus.FAILED, retried_by="another"))
    engine.put(make_record(status=TaskStatus.SUCCESS))
    wanted = [engine.put(make_record(status=TaskStatus.FAILED, age=3600)).task_id for _ in range(2)]
    answer = await client.post("/tasks/retry-failed?since=6h")
    assert {pair["task_id"] for pair in answer.json()["retried"]} == set(wanted)
    again = (await client.post("/tasks/retry-failed?since=6h")).json()
    assert again.pop("operation_id")
    assert again == {
        "retried": [],
        "skipped": [],
        "more": False,
        "matched": 0,
        "dry_run": False,
        "status": "done",
    }


async def test_retry_failed_stops_at_its_limit_and_says_that_there_is_more(
    client: httpx.AsyncClient, engine: House
) -> None:
    for _ in range(3):
        engine.put(make_record(status=TaskStatus.FAILED))
    answer = (await client.post("/tasks/retry-failed?limit=2")).json()
    assert (len(answer["retried"]), answer["more"]) == (2, True)


async def test_deleting_history_leaves_live_tasks_and_newer_ones(client: httpx.AsyncClient, engine: House) -> None:
    for age in (10 * 86400, 3600):
        engine.put(make_record(age=age))
    engine.put(make_record(status=TaskStatus.RUNNING, age=20 * 86400))
    for query in ("?before=7d", ""):
        answer = await client.delete(f"/tasks/history{query}")
        assert (answer.status_code, answer.json()["deleted"], answer.json()["status"]) == (200, 1, "done")
    assert [record.status for record in engine.records.values()] == [TaskStatus.RUNNING]


@pytest.mark.parametrize("route", ["bulk-retry", "retry-failed", "bulk-cancel"])
@pytest.mark.parametrize("query", [query for query in FILTERS if not query.startswith("status=")])
async def test_bulk_actions_select_what_the_list_shows_for_the_same_filter(
    client: httpx.AsyncClient, engine: House, route: str, query: str
) -> None:
    status = TaskStatus.PENDING if route == "bulk-cancel" else TaskStatus.FAILED
    for fields in ({"queue": "mail"}, {"tags": {"tenant": "acme"}}, {"source": "retry"}, {"age": 7200.0}, {}):
        for name in ("report", "send"):
            engine.put(make_record(name, status, **{"age": 600.0, **fields}))  # type: ignore[arg-type]  # mixed values
    engine.put(make_record("report", TaskStatus.SUCCESS, queue="mail"))
    shown = [task["task_id"] for task in (await client.get(f"/tasks?{query}&status={status}")).json()]
    counted = (await client.post(f"/tasks/{route}?{query}&dry_run=true")).json()
    assert (counted["matched"], counted["dry_run"], counted["skipped"]) == (len(shown), True, [])
    assert all(
        record.retried_by is None and record.status is not TaskStatus.CANCELLED for record in engine.records.values()
    )
    done = (await client.post(f"/tasks/{route}?{query}")).json()
    acted_on = done["cancelled"] if route == "bulk-cancel" else [pair["task_id"] for pair in done["retried"]]
    assert acted_on == shown


@pytest.mark.parametrize(
    ("route", "possible"),
    [
        ("bulk-retry", {"failed", "cancelled", "interrupted", "rejected"}),
        ("retry-failed", {"failed"}),
        ("bulk-cancel", {"pending", "running"}),
        ("history", {"success", "failed", "cancelled", "interrupted", "rejected"}),
    ],
)
async def test_a_state_selects_its_tasks_and_one_in_which_nothing_can_be_done_is_refused(
    client: httpx.AsyncClient, engine: House, route: str, possible: set[str]
) -> None:
    method = "DELETE" if route == "history" else "POST"
    for status in TaskStatus:
        ids = {one: engine.put(make_record(status=one)).task_id for one in TaskStatus}
        counted = await client.request(method, f"/tasks/{route}?status={status}&dry_run=true")
        answer = await client.request(method, f"/tasks/{route}?status={status}")
        if status not in possible:
            assert (answer.status_code, counted.status_code, answer.json()["fields"]) == (422, 422, ["status"]), status
            continue
        results = (await client.get(f"/tasks/operations/{answer.json()['operation_id']}/results")).json()
        done = [item["task_id"] for item in results if item["outcome"] == "done"]
        assert counted.json()["matched"] == len(done) == len(results), status
        assert ids[status] in done
        assert not {task_id for one, task_id in ids.items() if one is not status} & set(done), status


async def test_the_audit_finds_each_bulk_action_by_each_of_its_tasks(client: httpx.AsyncClient, engine: House) -> None:
    failed = [engine.put(make_record(status=TaskStatus.FAILED)).task_id for _ in range(3)]
    live = [engine.put(make_record(status=TaskStatus.PENDING)).task_id for _ in range(2)]
    cancelled = (await client.post("/tasks/bulk-cancel", json={"task_ids": [*live, failed[0], "none"]})).json()
    results = (await client.get(f"/tasks/operations/{cancelled['operation_id']}/results")).json()
    assert [(item["task_id"], item["outcome"]) for item in results] == [
        (live[0], "done"), (live[1], "done"), (failed[0], "refused"), ("none", "refused"),
    ]  # fmt: skip
    assert "only one that waits or runs can" in results[2]["detail"]
    assert "there is no task" in results[3]["detail"]
    await client.post("/tasks/retry-failed")
    await client.delete("/tasks/history?status=failed")
    for task_id, actions in (
        *((task_id, ["delete-history", "retry-failed"]) for task_id in failed[1:]),
        (failed[0], ["delete-history", "retry-failed", "bulk-cancel"]),
        *((task_id, ["bulk-cancel"]) for task_id in (*live, "none")),
    ):
        found = (await client.get(f"/tasks/audit?task_id={task_id}")).json()
        assert [entry["action"] for entry in found] == actions, task_id
        for entry in found:
            address = f"/tasks/operations/{entry['operation_id']}/results"
            assert task_id in {item["task_id"] for item in (await client.get(address)).json()}


async def test_a_filter_selects_what_can_be_retried_and_was_not_yet(client: httpx.AsyncClient, engine: House) -> None:
    wanted = {
        engine.put(make_record(status=status)).task_id
        for status in (TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.INTERRUPTED, TaskStatus.REJECTED)
    }
    for status in (TaskStatus.SUCCESS, TaskStatus.RUNNING, TaskStatus.PENDING):
        engine.put(make_record(status=status))
    engine.put(make_record(status=TaskStatus.FAILED, retried_by="another"))
    answer = (await client.post("/tasks/bulk-retry?queue=default")).json()
    assert {pair["task_id"] for pair in answer["retried"]} == wanted
    assert answer["skipped"] == []


@pytest.mark.parametrize(
    ("query", "body", "says"),
    [
        ("", None, "give task_ids in the request body, or a filter"),
        ("?dry_run=true", None, "give task_ids in the request body, or a filter"),
        ("?queue=mail", {"task_ids": ["x"]}, "not both"),
        ("", {"task_ids": ["x", "\x00"]}, "NUL"),
        ("?status=success", None, "status must be"),
        ("?queue=mail", {"filter": "x"}, "filter"),
    ],
)
@pytest.mark.parametrize("route", ["bulk-retry", "bulk-cancel"])
async def test_a_bulk_action_that_does_not_say_which_tasks_is_refused(
    client: httpx.AsyncClient, engine: House, route: str, query: str, body: object, says: str
) -> None:
    engine.put(make_record(status=TaskStatus.FAILED))
    answer = (
        await client.post(f"/tasks/{route}{query}", json=body) if body else await client.post(f"/tasks/{route}{query}")
    )
    assert answer.status_code == 422
    assert says in answer.json()["detail"]
    assert len(engine.records) == 1


async def test_retry_failed_refuses_another_state_than_failed(client: httpx.AsyncClient, engine: House) -> None:
    engine.put(make_record(status=TaskStatus.CANCELLED))
    assert (await client.post("/tasks/retry-failed?status=cancelled")).status_code == 422
    assert (await client.post("/tasks/retry-failed?status=failed")).json()["matched"] == 0


async def test_bulk_cancel_takes_what_it_can_and_says_why_it_skips_the_rest(
    client: httpx.AsyncClient, engine: House
) -> None:
    running, pending, done = (
        engine.put(make_record(status=status)).task_id
        for status in (TaskStatus.RUNNING, TaskStatus.PENDING, TaskStatus.SUCCESS)
    )
    answer = await client.post("/tasks/bulk-cancel", json={"task_ids": [done, running, "none", pending, running]})
    assert answer.status_code == 202
    assert answer.json()["cancelled"] == [running, pending]
    assert {skip["task_id"] for skip in answer.json()["skipped"]} == {done, "none"}


async def test_bulk_cancel_stops_at_its_limit_and_says_that_there_is_more(
    client: httpx.AsyncClient, engine: House
) -> None:
    for _ in range(3):
        engine.put(make_record(status=TaskStatus.PENDING))
    answer = (await client.post("/tasks/bulk-cancel?status=pending&limit=2")).json()
    assert (len(answer["cancelled"]), answer["more"]) == (2, True)


@pytest.mark.parametrize("query", FILTERS)
async def test_deleting_history_deletes_the_finished_tasks_that_the_list_shows_for_the_same_filter(
    client: httpx.AsyncClient, engine: House, query: str
) -> None:
    for status in (TaskStatus.FAILED, TaskStatus.SUCCESS, TaskStatus.PENDING):
        for fields in ({"queue": "mail"}, {"tags": {"tenant": "acme"}}, {"source": "retry"}, {"age": 7200.0}, {}):
            for name in ("report", "send"):
                engine.put(make_record(name, status, **{"age": 600.0, **fields}))  # type: ignore[arg-type]  # mixed values
    before = set(engine.records)
    shown = (await client.get(f"/tasks?{query}")).json()
    finished = {task["task_id"] for task in shown if task["status"] != "pending"}
    counted = (await client.delete(f"/tasks/history?{query}&dry_run=true")).json()
    assert (counted["matched"], counted["deleted"], counted["dry_run"], counted["more"]) == (
        len(finished), 0, True, False,
    )  # fmt: skip
    assert set(engine.records) == before
    deleted = (await client.delete(f"/tasks/history?{query}")).json()
    assert (deleted["deleted"], deleted["status"]) == (len(finished), "done")
    assert set(engine.records) == before - finished
    results = (await client.get(f"/tasks/operations/{deleted['operation_id']}/results")).json()
    assert {item["task_id"] for item in results} == finished


async def test_live_tasks_cannot_be_deleted(client: httpx.AsyncClient, engine: House) -> None:
    engine.put(make_record(status=TaskStatus.PENDING))
    answer = await client.delete("/tasks/history?status=pending")
    assert (answer.status_code, answer.json()["fields"]) == (422, ["status"])


async def test_deleting_stops_at_its_limit_and_says_that_there_is_more(
    client: httpx.AsyncClient, engine: House
) -> None:
    for _ in range(5):
        engine.put(make_record())
    answer = (await client.delete("/tasks/history?limit=2")).json()
    assert (answer["deleted"], answer["more"]) == (2, True)
    counted = (await client.delete("/tasks/history?limit=2&dry_run=true")).json()
    assert (counted["matched"], counted["more"]) == (2, True)
    assert len(engine.records) == 3


async def test_a_bulk_action_is_a_record_with_who_why_and_the_result_of_each_task(
    client_of: ClientOf, engine: House
) -> None:
    client = client_of(auth=USER)
    failed, running = (engine.put(make_record(status=status)) for status in (TaskStatus.FAILED, TaskStatus.RUNNING))
    ids = [failed.task_id, running.task_id, "none"]
    answer = await client.post("/tasks/bulk-retry?reason=mail%20is%20back", json={"task_ids": ids}, auth=USER)
    assert answer.headers["Location"] == f"operations/{answer.json()['operation_id']}"
    address = f"/tasks/{answer.headers['Location']}"
    operation = (await client.get(address, auth=USER)).json()
    assert {name: operation[name] for name in ("kind", "status", "actor", "reason", "filter", "error", "owner")} == {
        "kind": "retry",
        "status": "done",
        "actor": "ada",
        "reason": "mail is back",
        "filter": None,
        "error": None,
        "owner": None,
    }
    assert (operation["total"], operation["done"], operation["succeeded"]) == (3, 3, 1)
    assert operation["created_at"] <= operation["ended_at"]
    first = await client.get(f"{address}/results?limit=2", auth=USER)
    second = await client.get(f"{address}/results{first.links['next']['url']}", auth=USER)
    assert "X-Next-Cursor" not in second.headers
    results = [*first.json(), *second.json()]
    assert [(item["seq"], item["task_id"], item["outcome"]) for item in results] == [
        (0, failed.task_id, "done"),
        (1, running.task_id, "refused"),
        (2, "none", "refused"),
    ]
    assert results[0]["new_task_id"] == engine.records[failed.task_id].retried_by
    assert "only a finished task" in results[1]["detail"]
    again = (await client.post("/tasks/bulk-retry", json={"task_ids": ids[:1]}, auth=USER)).json()
    [refused] = (await client.get(f"/tasks/operations/{again['operation_id']}/results", auth=USER)).json()
    assert (refused["outcome"], refused["new_task_id"]) == ("refused", results[0]["new_task_id"])
    assert results[0]["new_task_id"] in again["skipped"][0]["reason"]

    filtered = (await client.post("/tasks/bulk-cancel?queue=mail", auth=USER)).json()
    listed = (await client.get("/tasks/operations", auth=USER)).json()
    assert [one["operation_id"] for one in listed] == [
        filtered["operation_id"], again["operation_id"], operation["operation_id"],
    ]  # fmt: skip
    assert listed[0]["filter"] == "queue=mail"
    page = await client.get("/tasks/operations?kind=retry&limit=1", auth=USER)
    rest = await client.get(f"/tasks/operations{page.links['next']['url']}", auth=USER)
    assert [page.json()[0]["operation_id"], rest.json()[0]["operation_id"]] == [
        again["operation_id"], operation["operation_id"],
    ]  # fmt: skip
    audited = (await client.get(f"/tasks/audit?task_id={failed.task_id}", auth=USER)).json()
    assert [(entry["action"], entry["operation_id"]) for entry in audited] == [
        ("bulk-retry", again["operation_id"]),
        ("bulk-retry", operation["operation_id"]),
    ]
    assert audited[1]["reason"] == "mail is back"
    assert (await client.get("/tasks/operations/none", auth=USER)).status_code == 404


async def test_of_requests_with_one_idempotency_key_one_is_carried_out_and_answers_all(
    client: httpx.AsyncClient, engine: House
) -> None:
    ids = [engine.put(make_record(status=TaskStatus.FAILED)).task_id for _ in range(5)]
    key = {"Idempotency-Key": "once"}
    answers = await asyncio.gather(
        *(client.post("/tasks/bulk-retry", json={"task_ids": ids}, headers=key) for _ in range(5))
    )
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["operation_id"] for answer in answers}) == 1
    again = (await client.post("/tasks/bulk-retry", json={"task_ids": ids}, headers=key)).json()
    assert [pair["task_id"] for pair in again["retried"]] == ids
    assert len(engine.records) == 10
    other = await client.post("/tasks/bulk-retry", json={"task_ids": ids[:1]}, headers=key)
    assert (other.status_code, "Idempotency-Key" in other.json()["detail"]) == (422, True)
    assert (await client.delete("/tasks/history?dry_run=true", headers=key)).status_code == 200


@pytest.mark.parametrize("route", ["bulk-retry", "bulk-cancel"])
async def test_counting_named_tasks_says_what_would_be_done_and_does_nothing(
    client: httpx.AsyncClient, engine: House, route: str
) -> None:
    failed, retried, lost, succeeded, running, pending = (
        engine.put(make_record(status=status, **fields)).task_id
        for status, fields in (
            (TaskStatus.FAILED, {}),
            (TaskStatus.FAILED, {"retried_by": "another"}),
            (TaskStatus.FAILED, {"payload": None}),
            (TaskStatus.SUCCESS, {}),
            (TaskStatus.RUNNING, {}),
            (TaskStatus.PENDING, {}),
        )
    )
    engine.put(make_record(status=TaskStatus.SUCCESS, task_id="another"))
    ids = [failed, retried, lost, succeeded, running, pending, "none", failed]
    before = engine.records
    counted = (await client.post(f"/tasks/{route}?dry_run=true", json={"task_ids": ids})).json()
    assert engine.records == before
    done = (await client.post(f"/tasks/{route}", json={"task_ids": ids})).json()
    acted_on = done["cancelled"] if route == "bulk-cancel" else [pair["task_id"] for pair in done["retried"]]
    assert acted_on == ([running, pending] if route == "bulk-cancel" else [failed])
    assert (counted["matched"], counted["dry_run"], counted["more"]) == (len(acted_on), True, False)
    assert counted["skipped"] == done["skipped"]
    assert len(counted["skipped"]) == 7 - len(acted_on)


async def test_a_skipped_task_has_a_reason_even_if_the_operation_ended_before_it_came_to_it(
    client: httpx.AsyncClient, engine: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Retries, "retry_all", fail)
    ids = [engine.put(make_record(status=TaskStatus.FAILED)).task_id for _ in range(2)]
    answer = (await client.post("/tasks/bulk-retry", json={"task_ids": ids})).json()
    assert (answer["status"], answer["retried"]) == ("failed", [])
    assert [skip["task_id"] for skip in answer["skipped"]] == ids
    assert all(skip["reason"].startswith("not done: an unexpected error") for skip in answer["skipped"])


async def test_a_key_belongs_to_one_user_of_one_administration(engine: House) -> None:
    app = FastAPI()
    for path in ("/one", "/two"):
        TaskAdmin(app, engine.manager, path=path, auth=[USER, ("bob", "right horse")])
    ids = [engine.put(make_record(status=TaskStatus.FAILED)).task_id for _ in range(2)]
    found: dict[object, str] = {}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for path in ("/one", "/two"):
            for user in (USER, ("bob", "right horse")):
                for body in ({"task_ids": ids}, {"task_ids": ids}):
                    headers = {"Idempotency-Key": "k"}
                    answer = await client.post(f"{path}/bulk-retry", json=body, headers=headers, auth=user)
                    assert answer.status_code == 202, answer.text
                    first = found.setdefault((path, user), answer.json()["operation_id"])
                    assert answer.json()["operation_id"] == first
    assert len(set(found.values())) == 4


async def test_more_than_a_thousand_tasks_are_worked_off_in_the_background_a_few_at_a_time(
    client: httpx.AsyncClient, engine: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = {engine.keep(make_record(status=TaskStatus.FAILED)).task_id for _ in range(1_500)}
    async with Turns() as turns:
        monkeypatch.setattr(TaskBuilder, "rebuild", turns.counted(TaskBuilder.rebuild))
        answer = (await client.post("/tasks/retry-failed?limit=1200")).json()
        assert (answer["status"], answer["retried"]) == ("running", [])
        address = f"/tasks/operations/{answer['operation_id']}"

        async def has_ended() -> bool:
            status: str = (await client.get(address)).json()["status"]
            return status == "done"

        await eventually(has_ended, "the end of the operation")
    assert turns.calls == 1_200
    assert turns.most <= 10
    operation = (await client.get(address)).json()
    assert (operation["total"], operation["done"], operation["succeeded"]) == (1_200, 1_200, 1_200)
    gone = await client.delete("/tasks/history?status=failed&func_name=send_email")
    assert gone.status_code == (200 if gone.json()["status"] == "done" else 202)
    await eventually(lambda: not ids & set(engine.stored_ids()), "the deletion")
