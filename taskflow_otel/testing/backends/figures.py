"""Backends that keep figures of finished tasks, which is optional."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import timedelta

import pytest
from msgspec.structs import replace

from taskflow_otel.backends.admin import FigureStore, KeepsFigures
from taskflow_otel.backends.base import Backend, Insert, Update
from taskflow_otel.model.figures import RETRIED, UNTIMED, WAIT, Figure, Span, bucket_of
from taskflow_otel.model.record import TaskRecord, TimelineEntry
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.vocabulary import ObjectiveResult
from taskflow_otel.testing.backends.fixtures import APPLIED, STALE, BackendFixtures, Open
from taskflow_otel.testing.backends.samples import BASE, TEXT, finish, make_task

_ALWAYS = 0, 2**40
_GOOD, _BAD = ObjectiveResult.GOOD.value, ObjectiveResult.BAD.value
_DONE, _FAILED, _LOST = (status.value for status in (TaskStatus.SUCCESS, TaskStatus.FAILED, TaskStatus.INTERRUPTED))
_GOOD, _BAD = ObjectiveResult.GOOD.value, ObjectiveResult.BAD.value


def _store_of(backend: Backend) -> FigureStore:
    if not isinstance(backend, KeepsFigures):
        pytest.skip("this backend does not keep figures")
    return backend.figure_store


def _ran(name: str, minute: int, seconds: float, status: TaskStatus = TaskStatus.SUCCESS) -> TaskRecord:
    """A task that waited a quarter of a second, ran, and ended in this minute after `BASE`."""
    ended = BASE.replace(second=30) + timedelta(minutes=minute)
    started = ended - timedelta(seconds=seconds)
    task = make_task(func_name=name, created_at=started - timedelta(seconds=0.25))
    entries = (
        TimelineEntry(Transition.ENQUEUED, task.created_at, 0, "one"),
        TimelineEntry(Transition.STARTED, started, 0, "one"),
    )
    task.timeline, task.start_time, task.end_time, task.duration, task.status = entries, started, ended, seconds, status
    return task


def _numbers(figures: Iterable[Figure]) -> Counter[tuple[str, str]]:
    """The numbers of tasks by name and kind."""
    found: Counter[tuple[str, str]] = Counter()
    for figure in figures:
        found[figure.func_name, figure.kind] += figure.tasks
    return found


class FigureConformance(BackendFixtures):
    """Tests of the figures of finished tasks."""

    async def test_each_finished_task_is_counted_once_in_its_minute_and_its_hour(self, backend: Backend) -> None:
        store = _store_of(backend)
        assert await store.oldest(Span.HOUR) is None
        name = f"a:b {TEXT.strip()}"
        tasks = [_ran(name, 0, 2.0), _ran(name, 0, 2.0), _ran(name, 1, 9.0, TaskStatus.FAILED), _ran("b", 61, 0.5)]
        lost = make_task(func_name="b")
        lost.status, lost.end_time = TaskStatus.INTERRUPTED, BASE.replace(second=1)
        applied = await backend.apply([Insert(task) for task in [*tasks, lost, make_task(func_name="live")]])
        assert applied == [APPLIED] * 6
        # Again, as after an answer that was lost.
        assert await backend.apply([Insert(task) for task in tasks]) == [APPLIED] * 4
        minute, hour = Span.MINUTE.slot(BASE), Span.HOUR.slot(BASE)
        by_name = await store.read(Span.MINUTE, *_ALWAYS, by_name=True)
        assert sorted(by_name, key=lambda f: (f.slot, f.func_name, f.kind, f.bucket)) == [
            Figure(minute, name, _DONE, bucket_of(2.0), 2, 4_000_000),
            Figure(minute, name, WAIT, bucket_of(0.25), 2, 500_000),
            Figure(minute, "b", _LOST, UNTIMED, 1, 0),
            Figure(minute + 60, name, _FAILED, bucket_of(9.0), 1, 9_000_000),
            Figure(minute + 60, name, WAIT, bucket_of(0.25), 1, 250_000),
            Figure(minute + 61 * 60, "b", _DONE, bucket_of(0.5), 1, 500_000),
            Figure(minute + 61 * 60, "b", WAIT, bucket_of(0.25), 1, 250_000),
        ]
        assert [f.slot for f in await store.read(Span.MINUTE, minute + 60, minute + 60, by_name=True)] == [
            minute + 60
        ] * 2
        assert (await store.oldest(Span.MINUTE), await store.oldest(Span.HOUR)) == (minute, hour)
        # As they are asked for by the page of one type, and over more slots than are looked at one by one.
        for slots in ((hour, hour + 7_200), _ALWAYS):
            one = await store.read(Span.HOUR, *slots, by_name=True, names=["b", "nobody"])
            assert _numbers(one) == {("b", _LOST): 1, ("b", _DONE): 1, ("b", WAIT): 1}
            assert _numbers(await store.read(Span.HOUR, *slots, names=[name], kinds=[_FAILED])) == {("", _FAILED): 1}
            assert await store.read(Span.HOUR, *slots, names=[]) == []
        together = await store.read(Span.HOUR, hour, hour)
        assert {f.func_name for f in together} == {""}
        assert _numbers(together) == {("", _DONE): 2, ("", _FAILED): 1, ("", _LOST): 1, ("", WAIT): 3}
        assert _numbers(await store.read(Span.HOUR, hour + 3600, hour + 3600)) == {("", _DONE): 1, ("", WAIT): 1}

    async def test_a_task_counts_once_for_the_objective_of_its_type(self, backend: Backend) -> None:
        store = _store_of(backend)
        tasks = [_ran("send", 0, 2.0) for _ in range(3)]
        for task, due in zip(tasks, (timedelta(0), timedelta(seconds=1), None), strict=True):
            first, started = task.timeline
            assert task.end_time is not None
            first = replace(first, due_at=None if due is None else task.end_time - due)
            task.timeline = first, started, TimelineEntry(Transition.SUCCEEDED, task.end_time, 0, "one")
        assert await backend.apply([Insert(task) for task in tasks]) == [APPLIED] * 3
        found = await store.read(Span.HOUR, *_ALWAYS, by_name=True, kinds={_GOOD, _BAD})
        assert _numbers(found) == {("send", _GOOD): 1, ("send", _BAD): 1}
        assert _numbers(await store.read(Span.MINUTE, *_ALWAYS, kinds=[_DONE])) == {("", _DONE): 3}

    async def test_further_attempts_are_counted_with_their_task(self, backend: Backend) -> None:
        store = _store_of(backend)
        tasks = [_ran("send", 0, 2.0) for _ in range(4)]
        for task, retries in zip(tasks, (0, 1, 3, 3), strict=True):
            task.retries_used = retries
        assert await backend.apply([Insert(task) for task in tasks]) == [APPLIED] * 4
        found = await store.read(Span.HOUR, *_ALWAYS, by_name=True, kinds=[RETRIED])
        assert [(figure.func_name, figure.bucket, figure.tasks) for figure in found] == [("send", 1, 1), ("send", 3, 2)]

    async def test_a_refused_change_is_not_counted_and_the_others_of_its_batch_are(self, backend: Backend) -> None:
        store = _store_of(backend)
        one, other = make_task(func_name="one"), make_task(func_name="other", token=7)
        await backend.apply([Insert(one), Insert(other)])
        late = finish(other)
        late.token = 6
        ended = finish(one)
        results = await backend.apply([Update(late), Update(ended), Insert(finish(make_task(func_name="fresh")))])
        assert results == [STALE, APPLIED, APPLIED]
        # A finished task is never rewritten.
        assert await backend.apply([Update(finish(one, TaskStatus.FAILED))]) == [APPLIED]
        found = _numbers(await store.read(Span.MINUTE, *_ALWAYS, by_name=True))
        assert found == {("one", _DONE): 1, ("fresh", _DONE): 1}

    async def test_figures_are_those_of_all_instances_and_stay_when_their_tasks_are_deleted(
        self, backend: Backend, open_backend: Open
    ) -> None:
        others = [backend, *[await open_backend() for _ in range(3)]]
        tasks = [_ran("send", 0, 1.0) for _ in range(4)]
        for one, task in zip(others, tasks, strict=True):
            assert await one.apply([Insert(task)]) == [APPLIED]
        await backend.delete_tasks([task.task_id for task in tasks])
        assert (await backend.get(tasks[0].task_id)) is None
        [run] = [f for f in await _store_of(await open_backend()).read(Span.HOUR, *_ALWAYS) if f.kind != WAIT]
        assert (run.tasks, run.micros) == (4, 4_000_000)

    async def test_old_slots_are_forgotten_and_only_those_of_their_length(self, backend: Backend) -> None:
        store = _store_of(backend)
        await backend.apply([Insert(_ran("send", minute, 1.0)) for minute in range(5)])
        minute = Span.MINUTE.slot(BASE)
        for _ in range(9):
            if not await store.forget(Span.MINUTE, minute + 3 * 60, 2):
                break
        else:
            pytest.fail("there is always something to forget")
        assert {f.slot for f in await store.read(Span.MINUTE, *_ALWAYS)} == {minute + 180, minute + 240}
        assert _numbers(await store.read(Span.HOUR, *_ALWAYS)) == {("", _DONE): 5, ("", WAIT): 5}
