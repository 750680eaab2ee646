"""How far a search reads if no index decides every condition, and that the next page continues there."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Select

from taskflow_otel.backends import Backend
from taskflow_otel.backends.base import Insert, Update
from taskflow_otel.backends.sql import search
from taskflow_otel.backends.sql.dialects import SqliteDialect
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import FINISHED_STATUSES, TaskStatus
from taskflow_otel.testing.backends.samples import finish, ids, make_task, matches, population, queries
from tests.backends.conftest import BackendFactory

WINDOW = 7

sql = pytest.mark.parametrize("backend_factory", ["mysql", "postgres", "sqlite"], indirect=True)


@pytest.fixture
async def backend(backend_factory: BackendFactory, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Backend]:
    """A backend that looks at a few tasks only."""
    monkeypatch.setattr(search, "WINDOW", WINDOW)
    backend = backend_factory()
    await backend.open()
    yield backend
    await backend.close()


async def store(backend: Backend, tasks: Sequence[TaskRecord]) -> None:
    await backend.apply([Insert(task) for task in tasks])
    await backend.apply([Update(finish(t, t.status)) for t in tasks if t.status in FINISHED_STATUSES])


def mixed(tasks: Sequence[TaskRecord]) -> list[TaskQuery]:
    early, late = tasks[10].created_at, tasks[40].created_at
    conditions: list[dict[str, Any]] = [
        {"q": "send", "since": early},
        {"q": "e", "tag": ("tenant", None), "until": late},
        {"queue": "mails", "source": "manual"},
        {"queue": "mails", "source": "manual", "status": TaskStatus.FAILED, "func_name": "send_sms"},
        {"tag": ("tenant", "b"), "queue": "default", "status": TaskStatus.PENDING},
        {"tag": ("tenant", None), "func_name": "send_email", "since": early},
        {"trace_id": "a" * 32, "tag": ("tenant", None), "queue": "mails"},
    ]
    return [TaskQuery(**condition) for condition in conditions]


@sql
@pytest.mark.parametrize("moments", [60, 5, 1], ids=["each its time", "some share a time", "all of one time"])
async def test_following_the_cursors_of_bounded_pages_gives_every_task_once(backend: Backend, moments: int) -> None:
    tasks = population()
    for n, task in enumerate(tasks):
        task.created_at = tasks[n - n % (60 // moments)].created_at
    await store(backend, tasks)
    for query in (*queries(tasks), *mixed(tasks)):
        expected = [task for task in reversed(tasks) if matches(task, query)]
        found: list[str] = []
        cursor: str | None = None
        while True:
            page = await backend.page(replace(query, limit=3, cursor=cursor, count_limit=5))
            found += ids(page.records)
            assert page.total is not None
            assert (page.total == len(expected)) if page.total_exact else page.total <= len(expected), query
            if (cursor := page.next_cursor) is None:
                break
        assert found == ids(expected), query
        counts = await backend.counts(replace(query, count_limit=5))
        by_status = Counter(task.status for task in expected)
        assert counts.by_status == by_status if counts.exact else Counter(counts.by_status) <= by_status, query


@sql
async def test_a_text_is_looked_for_in_the_newest_tasks_and_the_page_says_so(backend: Backend) -> None:
    old = make_task(func_name="needle")
    await backend.apply([Insert(task) for task in (old, *(make_task() for _ in range(WINDOW)))])
    query = TaskQuery(q="needle", count_limit=100)
    page = await backend.page(query)
    assert (page.records, page.total, page.total_exact) == ([], 0, False)
    rest = await backend.page(replace(query, cursor=page.next_cursor))
    assert (ids(rest.records), rest.next_cursor) == ([old.task_id], None)
    counts = await backend.counts(TaskQuery(q="needle"))
    assert (counts.total, counts.exact) == (0, False)


@sql
async def test_the_index_that_leads_to_the_fewest_tasks_is_walked(backend: Backend) -> None:
    rare = [make_task(queue="rare", tags={"a": "b"}), make_task(status=TaskStatus.FAILED, tags={"a": "b"})]
    await store(backend, [*rare, *(make_task(tags={"a": "b"}) for _ in range(3 * WINDOW))])
    for query, expected in (
        (TaskQuery(func_name="send", queue="rare"), rare[:1]),
        (TaskQuery(tag=("a", None), queue="rare"), rare[:1]),
        (TaskQuery(tag=("a", "b"), status=TaskStatus.FAILED), rare[1:]),
        (TaskQuery(queue="default", func_name="send", status=TaskStatus.FAILED), rare[1:]),
    ):
        page = await backend.page(replace(query, count_limit=100))
        assert (ids(page.records), page.next_cursor) == (ids(expected), None), query
        assert (page.total, page.total_exact) == (1, True), query
        # Bounds are for those who ask for them.
        counts = await backend.counts(query)
        assert (counts.total, counts.exact) == (1, True), query


@sql
async def test_kept_counts_choose_among_indexes_that_all_lead_to_many(backend: Backend) -> None:
    tasks = [make_task(queue="q" if n % 3 == 0 else "default") for n in range(6 * WINDOW)]
    await store(backend, [finish(task) for task in tasks])
    page = await backend.page(TaskQuery(func_name="send", queue="q", limit=2 * WINDOW))
    # Of the newest tasks of the queue each matches; of the name, a third would.
    assert len(page.records) == WINDOW


@sql
async def test_live_tasks_are_counted_up_to_the_limit(backend: Backend) -> None:
    done = [make_task(status=TaskStatus.FAILED) for _ in range(3)]
    await store(backend, [*done, *(make_task(queue="q") for _ in range(4))])
    for query, total in ((TaskQuery(), 7), (TaskQuery(func_name="send"), 7), (TaskQuery(queue="q"), 4)):
        counts = await backend.counts(query)
        assert (counts.total, counts.exact) == (total, True)
        bounded = await backend.counts(replace(query, count_limit=2))
        assert (bounded.total, bounded.exact) == (total - 2, False)
    assert (await backend.counts(TaskQuery(status=TaskStatus.FAILED, count_limit=1))).exact


async def test_a_search_whose_tasks_are_deleted_during_it_continues_where_it_was() -> None:
    answers: list[list[Any]] = [[(1,)], [(2,)], [], []]

    async def read(_: Select[Any]) -> list[Any]:
        return answers.pop(0)

    found = await search.Searcher(read, SqliteDialect()).page(TaskQuery(q="x", cursor="before"))
    assert (found.rows, found.next_cursor) == ([], "before")


async def test_where_the_stored_counts_say_enough_no_index_range_is_counted() -> None:
    answers: list[list[Any]] = [[("failed", 9_000, 9_000, 1)], [(50_000, 90_000)], [(1,)], [], []]
    asked: list[str] = []

    async def read(statement: Select[Any]) -> list[Any]:
        asked.append(str(statement))
        return answers.pop(0)

    query = TaskQuery(queue="q", status=TaskStatus.FAILED, cursor=None, count_limit=100)
    found = await search.Searcher(read, SqliteDialect()).page(query)
    # Two of the counts, then how far back the page reaches, the page, and where the next one begins.
    assert [("finished_counts" in statement) for statement in asked] == [True, True, False, False, False]
    assert (found.rows, found.total) == ([], 9_000)
