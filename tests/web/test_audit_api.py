"""The audit over HTTP: filters, pages, and what is refused."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from taskflow_otel.testing.backends.admin import make_entry
from tests.web.conftest import ClientOf
from tests.web.house import House


@pytest.fixture
async def told(engine: House) -> None:
    """Thirty entries, a minute apart."""
    now = datetime.now(UTC)
    await engine.backend.audit_store.add(
        [
            make_entry(
                at=now - timedelta(minutes=number + 0.5),
                actor=("ada", "bob")[number % 2],
                action=("retry-task", "pause-queue", "login")[number % 3],
                outcome=("done", "refused")[number % 5 == 0],
                task_id=f"task-{number % 3}" if number % 3 == 0 else None,
            )
            for number in range(30)
        ]
    )


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize(
    ("query", "number"),
    [
        ("", 30),
        ("actor=ada", 15),
        ("actor=nobody", 0),
        ("action=login", 10),
        ("outcome=refused", 6),
        ("since=10m", 10),
        ("until=10m", 20),
        ("actor=bob&action=login&since=20m", 3),
        ("task_id=task-0", 10),
    ],
)
async def test_filters_select_and_pages_follow_one_another(client: httpx.AsyncClient, query: str, number: int) -> None:
    times: list[str] = []
    address = f"/tasks/audit?{query}&limit=4"
    while True:
        answer = await client.get(address)
        page = answer.json()
        times += [entry["at"] for entry in page]
        if "X-Next-Cursor" not in answer.headers:
            break
        assert len(page) == 4
        address = f"/tasks/audit{answer.links['next']['url']}"
    assert times == sorted(times, reverse=True)
    assert len(times) == len(set(times)) == number


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("cursor=x", "cursor"),
        ("since=yesterday", "since"),
        ("outcome=good", "outcome"),
        ("limit=0", "limit"),
        ("actor=%00", "actor"),
    ],
)
async def test_a_question_that_cannot_be_understood_is_refused(
    client: httpx.AsyncClient, query: str, field: str
) -> None:
    answer = await client.get(f"/tasks/audit?{query}")
    assert answer.status_code == 422
    assert answer.json()["fields"] == [field]


async def test_the_audit_needs_a_login(client_of: ClientOf) -> None:
    client = client_of(auth=("ada", "correct horse"))
    assert (await client.get("/tasks/audit")).status_code == 401
    answers = await asyncio.gather(*(client.post("/tasks/queues/mail/pause") for _ in range(30)))
    assert {answer.status_code for answer in answers} == {401}
    kept = (await client.get("/tasks/audit", auth=("ada", "correct horse"))).json()
    assert len(kept) == 10, "strangers cannot fill it"
