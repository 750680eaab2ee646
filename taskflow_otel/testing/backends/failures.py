"""Backends that count groups of failures, which is optional."""

from __future__ import annotations

from datetime import timedelta

import pytest

from taskflow_otel.backends.base import Backend, Insert, RetryLink, Update
from taskflow_otel.backends.failures import FailureStore, KeepsFailures
from taskflow_otel.model.failure import AttemptFailure
from taskflow_otel.model.query import FailureGroup, TaskQuery, Trend
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.testing.backends.fixtures import APPLIED, BackendFixtures, Open
from taskflow_otel.testing.backends.samples import BASE, ids, make_task

_ONE, _OTHER = "1" * 16, "0123456789abcdef"
_HOUR = timedelta(hours=1)
_TREND = Trend(BASE + 4 * _HOUR, BASE + 2 * _HOUR)


def _store_of(backend: Backend) -> FailureStore:
    if not isinstance(backend, KeepsFailures):
        pytest.skip("this backend does not count groups of failures")
    return backend.failure_store


def _failed(
    fingerprint: str | None, hours: float = 0, status: TaskStatus = TaskStatus.FAILED, **fields: object
) -> TaskRecord:
    """A task that ended some hours after `BASE`; a live one has no end."""
    task = make_task(failures=(AttemptFailure(0, fingerprint),), status=status, **fields)
    task.end_time = BASE + hours * _HOUR if status.finished else None
    return task


async def _groups(backend: Backend, query: TaskQuery | None = None) -> dict[str, FailureGroup]:
    found = await _store_of(backend).groups(query or TaskQuery(), _TREND)
    assert found.exact
    return {group.fingerprint: group for group in found.groups}


class FailureConformance(BackendFixtures):
    """Tests of the groups of failures."""

    async def test_each_task_that_went_wrong_is_in_the_group_of_its_fingerprint(
        self, backend: Backend, open_backend: Open
    ) -> None:
        tasks = [
            _failed(_ONE, 1),
            _failed(_ONE, 3, TaskStatus.INTERRUPTED, queue="mails"),
            _failed(_ONE, 5, TaskStatus.REJECTED, func_name="other"),
            _failed(_ONE, status=TaskStatus.PENDING),
            _failed(_ONE, status=TaskStatus.RUNNING),
            _failed(_ONE, 5, TaskStatus.SUCCESS),
            _failed(_ONE, 5, TaskStatus.CANCELLED),
            _failed(_OTHER, 4, tags={"tenant": "a"}),
            _failed(None, 4),
            _failed("2" * 16, status=TaskStatus.PENDING),
        ]
        assert await backend.apply([Insert(task) for task in tasks]) == [APPLIED] * len(tasks)
        # Again, as after an answer that was lost.
        await backend.apply([Insert(task) for task in tasks])
        groups = await _groups(await open_backend())
        assert groups == {
            _ONE: FailureGroup(
                fingerprint=_ONE,
                total=3,
                open=3,
                waiting=1,
                first_at=BASE + _HOUR,
                last_at=BASE + 5 * _HOUR,
                recent=1,
                before=1,
                newest=groups[_ONE].newest,
            ),
            _OTHER: FailureGroup(
                fingerprint=_OTHER,
                total=1,
                open=1,
                waiting=0,
                first_at=BASE + 4 * _HOUR,
                last_at=BASE + 4 * _HOUR,
                recent=1,
                before=0,
                newest=tasks[7].task_id,
            ),
        }
        assert groups[_ONE].newest in ids(tasks[:3])
        narrowed = await _groups(backend, TaskQuery(queue="mails"))
        assert {name: (group.total, group.open) for name, group in narrowed.items()} == {_ONE: (1, 1)}
        assert set(await _groups(backend, TaskQuery(tag=("tenant", "a"), since=BASE))) == {_OTHER}
        assert (await _groups(backend, TaskQuery(fingerprint=_ONE, status=TaskStatus.FAILED)))[_ONE].total == 1
        page = await backend.page(TaskQuery(fingerprint=_ONE, count_limit=100))
        assert sorted(ids(page.records)) == sorted(ids(tasks[:5]))
        assert page.total == 5

    async def test_a_retried_task_is_open_no_more_and_a_deleted_one_is_gone(self, backend: Backend) -> None:
        tasks = [_failed(_ONE, hours) for hours in range(3)]
        await backend.apply([Insert(task) for task in tasks])
        retry = make_task(retry_of=tasks[0].task_id)
        await backend.apply([Insert(retry, link=RetryLink())])
        group = (await _groups(backend))[_ONE]
        assert (group.total, group.open) == (3, 2)
        refused = make_task(retry_of=tasks[0].task_id)
        await backend.apply([Insert(refused, link=RetryLink())])
        assert (await _groups(backend))[_ONE].open == 2
        assert await backend.delete_tasks([tasks[0].task_id]) == [tasks[0].task_id]
        group = (await _groups(backend))[_ONE]
        assert (group.total, group.open, group.first_at) == (2, 2, BASE + _HOUR)
        await backend.delete_finished(BASE + 9 * _HOUR, 100)
        assert not await _groups(backend)
        assert not await _store_of(backend).occurrences([_ONE], 0, 2**31, 2**30)

    async def test_a_task_moves_to_the_group_of_its_latest_failure(self, backend: Backend) -> None:
        task = make_task()
        await backend.apply([Insert(task)])
        for fingerprint, status in ((_ONE, TaskStatus.PENDING), (_OTHER, TaskStatus.FAILED)):
            task = task.copy()
            task.status, task.retries_used = status, 1
            task.failures = (*task.failures, AttemptFailure(len(task.failures), fingerprint, "KeyError", "no"))
            task.end_time = BASE if status.finished else None
            assert await backend.apply([Update(task)]) == [APPLIED]
            assert [len((await backend.page(TaskQuery(fingerprint=one))).records) for one in (_ONE, _OTHER)] == (
                [1, 0] if fingerprint == _ONE else [0, 1]
            )
        assert set(await _groups(backend)) == {_OTHER}
        assert await backend.get(task.task_id) == task
        # A finished task is never rewritten.
        late = task.copy()
        late.failures = ()
        assert await backend.apply([Update(late)]) == [APPLIED]
        assert set(await _groups(backend)) == {_OTHER}

    async def test_a_task_that_recovers_leaves_its_group_and_keeps_what_its_attempts_failed_of(
        self, backend: Backend
    ) -> None:
        task = _failed(_ONE, status=TaskStatus.PENDING)
        await backend.apply([Insert(task)])
        done = task.copy()
        done.status, done.retries_used, done.end_time = TaskStatus.SUCCESS, 1, BASE
        assert await backend.apply([Update(done)]) == [APPLIED]
        assert not (await backend.page(TaskQuery(fingerprint=_ONE))).records
        stored = await backend.get(task.task_id)
        assert stored is not None
        assert (stored.fingerprint, stored.failures) == (None, task.failures)

    async def test_occurrences_are_counted_by_the_time_of_the_end(self, backend: Backend) -> None:
        await backend.apply([Insert(_failed(_ONE, hours)) for hours in (0, 0.1, 1, 3, 30)])
        await backend.apply([Insert(_failed(_OTHER, 1)), Insert(_failed(_ONE, status=TaskStatus.PENDING))])
        zero = int(BASE.timestamp()) // 3600 * 3600
        store = _store_of(backend)
        assert await store.occurrences([_ONE, _OTHER, "3" * 16], zero, zero + 5 * 3600, 3600) == {
            _ONE: {zero: 2, zero + 3600: 1, zero + 3 * 3600: 1},
            _OTHER: {zero + 3600: 1},
        }
        assert await store.occurrences([_ONE], zero + 3600, zero + 3600, 3600) == {_ONE: {zero + 3600: 1}}
