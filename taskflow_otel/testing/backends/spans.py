"""Backends that keep the spans of attempts, which is optional."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from taskflow_otel.backends.base import AppendSpans, Backend, Change, Insert, Update
from taskflow_otel.backends.spans import KeepsSpans, SpanStore
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.testing.backends.fixtures import APPLIED, STALE, BackendFixtures
from taskflow_otel.testing.backends.samples import BASE, TEXT, finish, make_instance, make_task


def _store_of(backend: Backend) -> SpanStore:
    if not isinstance(backend, KeepsSpans):
        pytest.skip("this backend does not keep spans")
    return backend.span_store


def _spans(task: TaskRecord, attempt: int, text: str = TEXT) -> AppendSpans:
    return AppendSpans(task.task_id, task.instance, task.token, attempt, text)


class SpanConformance(BackendFixtures):
    """The spans of attempts, written with their outcomes."""

    async def test_spans_are_kept_for_each_attempt_and_written_once(self, backend: Backend) -> None:
        store, task, other = _store_of(backend), make_task(), make_task()
        assert await store.read(task.task_id) == {}
        large = "\"\\' {},:%s " * 10_000
        batch: list[Change] = [Insert(task), _spans(task, 0), Insert(other), _spans(task, 1, large)]
        assert await backend.apply(batch) == [APPLIED] * 4
        assert await backend.apply([_spans(task, 1, "a repeated write"), _spans(task, 2)]) == [APPLIED] * 2
        assert await store.read(task.task_id) == {0: TEXT, 1: large, 2: TEXT}
        assert await store.read(other.task_id) == {}

    async def test_spans_under_a_token_that_is_over_are_dropped_and_hold_up_nothing(self, backend: Backend) -> None:
        store, lost, mine = _store_of(backend), make_task(persisted=True), make_task(instance="two")
        for name in ("one", "two"):
            await backend.beat(make_instance(name))
        await backend.apply([Insert(lost), Insert(mine)])
        assert await backend.declare_dead("one", BASE)
        (taken,) = await backend.take_over(["one"], "two", None, 10)
        late = replace(taken, instance="one", token=lost.token)
        # Alone, beside a change that is refused, and beside others.
        assert await backend.apply([_spans(late, 0)]) == [APPLIED]
        refused = replace(finish(taken), token=lost.token)
        assert await backend.apply([_spans(late, 0), Update(refused), _spans(mine, 0)]) == [APPLIED, STALE, APPLIED]
        assert await backend.apply([Update(finish(taken)), _spans(late, 0), _spans(taken, 1)]) == [APPLIED] * 3
        assert await store.read(lost.task_id) == {1: TEXT}
        assert await store.read(mine.task_id) == {0: TEXT}

    async def test_spans_are_deleted_with_their_task(self, backend: Backend) -> None:
        store = _store_of(backend)
        tasks = [finish(make_task()) for _ in range(3)]
        await backend.apply([*map(Insert, tasks), *(_spans(task, 0) for task in tasks)])
        assert await backend.delete_tasks([tasks[0].task_id]) == [tasks[0].task_id]
        assert await backend.delete_finished(BASE + timedelta(days=36_500), 1) == 1
        await backend.apply([_spans(tasks[0], 1)])
        assert sorted([len(await store.read(task.task_id)) for task in tasks]) == [0, 0, 1]
