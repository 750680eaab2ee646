"""The search for tasks by their arguments: bounded, complete by its cursors, and it says how far it came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import Backend, Insert
from taskflow_otel.model.argument_filter import ArgumentFilter, read_argument_filter
from taskflow_otel.model.query import TaskPage, TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.testing.backends.samples import make_task
from taskflow_otel.web import argument_search
from taskflow_otel.web.argument_search import search
from tests.backends.conftest import FACTORIES
from tests.clocks import HandClock
from tests.turns import Turns

WANTED = read_argument_filter("order:782")
ENCRYPTED = "fernet1:0123456789abcdef:gAAAA"


def payload(order: int) -> str:
    return f'{{"v":1,"names":["order"],"args":[{order}],"kwargs":{{}}}}'


@dataclass
class Reading:
    """A backend whose readings are noted."""

    backend: Backend
    queries: list[TaskQuery] = field(default_factory=list)

    async def page(self, query: TaskQuery) -> TaskPage:
        self.queries.append(query)
        return await self.backend.page(query)

    async def get_all(self, task_ids: Sequence[str]) -> Mapping[str, TaskRecord]:
        return await self.backend.get_all(task_ids)


async def stored(backend: Backend, payloads: Sequence[str | None]) -> list[TaskRecord]:
    tasks = [
        make_task(payload=one, queue="mail" if number % 2 else "default", error="late" if number < 3 else None)
        for number, one in enumerate(payloads)
    ]
    for start in range(0, len(tasks), 100):
        await backend.apply([Insert(task) for task in tasks[start : start + 100]])
    return tasks


@pytest.mark.parametrize("kind", sorted(FACTORIES))
async def test_following_the_cursors_finds_each_task_once_on_every_backend(
    kind: str, request: pytest.FixtureRequest
) -> None:
    backend = FACTORIES[kind](request)()
    await backend.open()
    try:
        orders = [782 if number in {0, 1, 7, 150, 299} else number + 1_000 for number in range(300)]
        payloads: list[str | None] = [payload(order) for order in orders]
        payloads[5], payloads[205] = ENCRYPTED, '{"v":1'
        tasks = await stored(backend, payloads)
        expected = [tasks[number].task_id for number in (299, 150, 7, 1, 0)]
        for limit, rows in ((100, 2_000), (100, 70), (2, 2_000), (1, 1)):
            found: list[str] = []
            number = unsearchable = 0
            cursor: str | None = None
            while True:
                done = await search(backend, TaskQuery(limit=limit, cursor=cursor), WANTED, rows=rows)
                found += [task.task_id for task in done.page.records]
                assert done.page.total == len(done.page.records) <= limit
                assert done.number + done.unsearchable <= rows
                number += done.number
                unsearchable += done.unsearchable
                assert not done.page.total_exact
                cursor = done.page.next_cursor
                at = tasks[0] if cursor is None else next(task for task in tasks if task.task_id == cursor)
                assert done.back_to == at.created_at
                if cursor is None:
                    break
            assert (found, number, unsearchable) == (expected, 298, 2)
        # The other filters select as ever, and the search is through what they leave.
        mail = await search(backend, TaskQuery(queue="mail"), WANTED)
        assert [task.task_id for task in mail.page.records] == [tasks[number].task_id for number in (299, 7, 1)]
        assert (mail.number, mail.unsearchable, mail.page.next_cursor) == (148, 2, None)
        late = await search(backend, TaskQuery(error="late"), WANTED)
        assert [task.task_id for task in late.page.records] == [tasks[1].task_id, tasks[0].task_id]
        assert (late.number, late.page.total, late.page.total_exact) == (3, 2, True)
        none = await search(backend, TaskQuery(queue="nothing"), WANTED)
        assert (none.page, none.number, none.back_to) == (TaskPage([], None, 0, True), 0, None)
    finally:
        await backend.close()


async def test_a_request_ends_in_time_and_its_cursor_continues() -> None:
    backend, clock = MemoryBackend(), HandClock()
    tasks = await stored(backend, [payload(782)] + [payload(1)] * 999)

    class Slow(Reading):
        async def page(self, query: TaskQuery) -> TaskPage:
            clock.seconds += 0.6
            return await super().page(query)

    slow = Slow(backend)
    done = await search(slow, TaskQuery(), WANTED, clock=clock)
    assert (len(slow.queries), done.number, done.page.records) == (2, 400, [])
    assert (done.page.next_cursor, done.back_to) == (tasks[600].task_id, tasks[600].created_at)
    assert all(query.count_limit is None for query in slow.queries)


async def test_pages_that_a_backend_ended_early_count_as_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text search may give pages without a task and with a cursor."""
    backend = MemoryBackend()
    tasks = await stored(backend, [payload(782)] * 9)
    monkeypatch.setattr(argument_search, "_READINGS", 3)

    class Early(Reading):
        async def page(self, query: TaskQuery) -> TaskPage:
            found = await super().page(query)
            return TaskPage([], found.records[1].task_id) if len(found.records) > 1 else found

    early = Early(backend)
    done = await search(early, TaskQuery(), WANTED)
    assert (done.number, done.page.next_cursor, done.back_to) == (0, tasks[3].task_id, tasks[3].created_at)
    # If its task has been deleted, the cursor alone is left.
    await backend.delete_tasks([tasks[3].task_id])
    rest = await search(early, TaskQuery(cursor=done.page.next_cursor), WANTED)
    assert (rest.number, [task.task_id for task in rest.page.records]) == (1, [tasks[0].task_id])


async def test_long_arguments_leave_the_event_loop_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = MemoryBackend()
    long = f'{{"v":1,"names":["order"],"args":["{"x" * 60_000}"],"kwargs":{{}}}}'
    await stored(backend, [long] * 40)
    async with Turns() as turns:
        monkeypatch.setattr(ArgumentFilter, "matches", turns.counted(ArgumentFilter.matches))
        done = await search(backend, TaskQuery(), WANTED)
    assert (done.number, done.page.total_exact) == (40, True)
    assert turns.calls == 40
    assert turns.most <= 4
