"""Retries over HTTP: with other arguments, which the annotations check, and what a form for them shows."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet
from pydantic import BaseModel

from taskflow_otel import ApiToken, TaskManager
from tests.managers import WAIT, finish, started
from tests.web.conftest import ClientOf
from tests.web.house import House, make_record
from tests.web.users import USER

TOKEN = "t" * 40


class Size(StrEnum):
    SMALL = "small"
    LARGE = "large"


class Item(BaseModel):
    name: str
    number: int = 1


runs: list[tuple[Any, ...]] = []


async def pack(order: int, size: Size = Size.SMALL, *items: str, due: datetime | None = None, **more: Any) -> None:
    """Note the arguments."""
    runs.append((order, size, items, due, more))


async def ship(item: Item, note: str = "") -> None:
    """Note the arguments."""
    runs.append((item, note))


@pytest.fixture
async def packed(engine: House) -> str:
    runs.clear()
    engine.manager.task()(pack)
    engine.manager.task()(ship)
    # Arguments of many kinds, those of an enumeration and of `*items` among them.
    task_id = await engine.manager.enqueue(pack, 7, Size.LARGE, "cup", due=datetime(2026, 1, 2), gift=True)
    await finish(engine.manager, task_id)
    return task_id


async def test_a_task_runs_again_with_other_arguments_and_keeps_the_rest_exactly(
    client: httpx.AsyncClient, engine: House, packed: str
) -> None:
    changes = {"order": 8, "due": "2027-03-04T05:06:07", "wrapped": "red"}
    answer = await client.post(f"/tasks/{packed}/retry?rerun=true&reason=wrong+order", json={"arguments": changes})
    assert answer.status_code == 202, answer.text
    await engine.manager.wait(answer.json()["task_id"], WAIT)
    assert runs == [
        (7, Size.LARGE, ("cup",), datetime(2026, 1, 2), {"gift": True}),
        (8, Size.LARGE, ("cup",), datetime(2027, 3, 4, 5, 6, 7), {"gift": True, "wrapped": "red"}),
    ]
    assert answer.json()["retry_of"] == packed
    [entry] = (await client.get(f"/tasks/audit?task_id={packed}")).json()
    assert entry["detail"] == f"as {answer.json()['task_id']}, with another due, another order, another wrapped"
    assert entry["reason"] == "wrong order"
    assert "2027" not in str(entry)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"order": "8"}, "'order' of pack cannot be changed so: it is not what its annotation int says"),
        ({"order": None}, "annotation int"),
        ({"size": "huge"}, "Size"),
        ({"due": "tomorrow"}, "datetime"),
        ({"": 1, "order": 8.5}, "annotation int"),
    ],
)
async def test_what_an_annotation_does_not_allow_is_refused_and_nothing_runs(
    client: httpx.AsyncClient, packed: str, changes: dict[str, Any], says: str
) -> None:
    answer = await client.post(f"/tasks/{packed}/retry?rerun=true", json={"arguments": changes})
    assert (answer.status_code, answer.json()["fields"]) == (422, ["arguments"])
    assert says in answer.json()["detail"]
    assert len(runs) == 1
    assert (await client.get(f"/tasks/{packed}")).json()["retried_by"] is None


async def test_a_model_is_checked_as_a_whole_and_a_name_that_no_parameter_has_is_refused(
    client: httpx.AsyncClient, engine: House, packed: str
) -> None:
    task_id = await engine.manager.enqueue(ship, Item(name="cup"))
    await finish(engine.manager, task_id)

    async def ask(arguments: Any) -> httpx.Response:
        return await client.post(f"/tasks/{task_id}/retry?rerun=true", json={"arguments": arguments})

    for wrong in ({"item": {"name": 5}}, {"itme": {"name": "mug"}}, {"item": "mug"}):
        assert (await ask(wrong)).status_code == 422, wrong
    answer = await ask({"item": {"name": "mug", "number": 3}})
    await engine.manager.wait(answer.json()["task_id"], WAIT)
    assert runs[-1] == (Item(name="mug", number=3), "")
    # The arguments are kept for the next retry too.
    assert (await client.post(f"/tasks/{answer.json()['task_id']}/retry?rerun=true", json={})).status_code == 202


async def test_a_task_that_the_instance_does_not_know_is_neither_offered_nor_run(
    client: httpx.AsyncClient, engine: House
) -> None:
    unknown = engine.put(make_record("of_another_deployment"))
    form = (await client.get(f"/tasks/{unknown.task_id}/arguments")).json()
    assert (form["editable"], form["parameters"]) == (False, [])
    assert "of_another_deployment" in form["why"]
    answer = await client.post(f"/tasks/{unknown.task_id}/retry?rerun=true", json={"arguments": {"x": 1}})
    assert answer.status_code == 409
    assert len(engine.records) == 1


async def test_a_form_has_the_arguments_by_name_only_where_they_are_displayed(client_of: ClientOf, packed: str) -> None:
    open_form = (await client_of(display_func_args=True).get(f"/tasks/{packed}/arguments")).json()
    assert [(one["name"], one["annotation"], one["value"]) for one in open_form["parameters"]] == [
        ("order", "int", "7"),
        ("size", "Size", '"large"'),
        ("due", "datetime | None", '"2026-01-02T00:00:00"'),
        ("gift", "Any", "true"),
    ]
    closed = (await client_of().get(f"/tasks/{packed}/arguments")).json()
    assert (closed["shown"], closed["editable"]) == (False, True)
    assert {one["value"] for one in closed["parameters"]} == {None}


async def test_an_api_token_needs_a_scope_of_its_own_for_other_arguments(client_of: ClientOf, packed: str) -> None:
    async def ask(*scopes: str, **body: Any) -> int:
        client = client_of(auth=USER, tokens=[ApiToken("script", TOKEN, set(scopes))])
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return (await client.post(f"/tasks/{packed}/retry?rerun=true", headers=headers, **body)).status_code

    changed = {"arguments": {"order": 9}}
    assert await ask("retry", json=changed) == 403
    assert await ask("edit", json=changed) == 403
    assert len(runs) == 1
    assert await ask("retry", "edit", json=changed) == 202


async def test_encrypted_arguments_are_changed_without_being_shown_and_stay_encrypted(tmp_path: Any) -> None:
    manager = TaskManager(snapshot_db=str(tmp_path / "tasks.db"), encrypt_args_key=Fernet.generate_key())
    manager.task(persist=True)(ship)
    async with started(manager):
        first = await finish(manager, await manager.enqueue(ship, Item(name="cup"), "secret note"))
        form = await manager.engine.retries.parameters(first.task_id)
        assert [(one.name, one.given) for one in form] == [("item", False), ("note", False)]
        made = await manager.engine.retries.retry(first.task_id, rerun=True, arguments={"note": "another"})
        again = await finish(manager, made.task_id)
    assert runs[-1] == (Item(name="cup"), "another")
    assert again.payload is not None
    assert "another" not in again.payload
