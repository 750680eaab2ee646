"""What is particular to the backend in memory."""

from __future__ import annotations

import asyncio

import pytest

from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import AppendLogs, Insert, RetryLink, Update
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import LogEntry
from taskflow_otel.testing.backends.samples import BASE, finish, ids, make_task


async def test_only_the_latest_finished_tasks_are_kept() -> None:
    backend = MemoryBackend(max_finished=3)
    live = make_task(idempotency_key="live")
    tasks = [make_task(idempotency_key=f"k{n}") for n in range(5)]
    await backend.apply([Insert(live), *(Insert(task) for task in tasks)])
    await backend.apply([AppendLogs(tasks[0].task_id, (LogEntry(0, BASE, "info", "hello", 0, {}),))])
    await backend.apply([Update(finish(task)) for task in tasks])
    assert ids((await backend.page(TaskQuery())).records) == ids([*reversed(tasks[2:]), live])
    assert await backend.logs(tasks[0].task_id) == []
    assert await backend.holder_of("k0") is None
    assert await backend.holder_of("k2") == tasks[2].task_id
    assert await backend.holder_of("live") == live.task_id


async def test_pages_are_in_order_whatever_the_order_of_the_inserts() -> None:
    backend = MemoryBackend()
    tasks = [make_task() for _ in range(4)]
    await backend.apply([Insert(tasks[n]) for n in (2, 0, 3, 1)])
    assert ids((await backend.page(TaskQuery())).records) == ids(reversed(tasks))


async def test_counting_many_tasks_leaves_the_event_loop_its_turns() -> None:
    backend = MemoryBackend()
    await backend.apply([Insert(make_task()) for _ in range(2_500)])
    counting = asyncio.create_task(backend.counts(TaskQuery()))
    turns = 0
    while not counting.done():
        await asyncio.sleep(0)
        turns += 1
    assert counting.result().total == (await backend.page(TaskQuery(count_limit=1))).total == 2_500
    assert turns > 2


async def test_it_is_not_durable_unless_a_test_asks_for_it() -> None:
    assert MemoryBackend().durable is False
    assert MemoryBackend(durable=True).durable is True


@pytest.mark.parametrize("wrong", [-1, 1.5, None, True])
def test_a_wrong_bound_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match="max_finished must be a whole number of at least 0"):
        MemoryBackend(max_finished=wrong)  # type: ignore[arg-type]  # this is the test


def test_a_namespace_is_checked_as_by_the_other_backends() -> None:
    MemoryBackend(namespace="shop")
    with pytest.raises(ConfigurationError, match="namespace must be a lower-case letter"):
        MemoryBackend(namespace="A b")


async def test_history_is_kept_without_a_copy_and_only_copies_leave_the_backend() -> None:
    backend, ended = MemoryBackend(), finish(make_task())
    await backend.apply([Insert(ended)])
    found = await backend.get(ended.task_id)
    assert found == ended
    assert found is not ended
    retry = make_task(retry_of=ended.task_id)
    await backend.apply([Insert(retry, link=RetryLink())])
    # The engine, which has the record too, writes the same.
    assert ended.retried_by == retry.task_id
    assert found.retried_by is None


async def test_a_task_that_has_not_finished_is_kept_as_a_copy() -> None:
    backend, live = MemoryBackend(), make_task()
    await backend.apply([Insert(live)])
    live.reason = "changed since"
    assert (found := await backend.get(live.task_id)) is not None
    assert found.reason is None
