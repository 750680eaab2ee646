"""The live tasks of a process: bounded, with the keys that they hold and what of them is not published yet."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from taskflow_otel.engine.live import LiveTask, LiveTasks, TaskStore
from taskflow_otel.engine.phase import Step
from taskflow_otel.engine.registry import TaskDefinition
from taskflow_otel.errors import IllegalTransitionError
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.task_options import make_task_config
from taskflow_otel.testing.backends.samples import make_task

DEFINITION = TaskDefinition(make_task_config(name="send", executor="async"), lambda: None, None)


def live(*, durable: bool = True, **fields: Any) -> LiveTask:
    return LiveTask(make_task(**fields), DEFINITION, (), {}, None, durable=durable)


def test_a_limited_number_of_finished_tasks_is_remembered_and_the_oldest_is_forgotten() -> None:
    tasks, made = LiveTasks(finished_window=2), [live() for _ in range(3)]
    for task in made:
        tasks.add(task)
    for task in made:
        tasks.finish(task)
    assert len(tasks) == 0
    assert [tasks.record(task.id) for task in made] == [None, made[1].record, made[2].record]


def test_a_task_of_another_instance_is_forgotten_at_once() -> None:
    tasks, task = LiveTasks(10), live()
    tasks.add(task)
    tasks.drop(task)
    assert (tasks.live(task.id), tasks.record(task.id)) == (None, None)


def test_a_task_that_came_back_under_another_identity_stays_when_the_former_one_is_forgotten() -> None:
    tasks, former = LiveTasks(10), live(idempotency_key="k")
    again = live(task_id=former.id, idempotency_key="k")
    tasks.add(former)
    tasks.add(again)
    tasks.hold_key("k", again.id)
    tasks.drop(former)
    assert (tasks.live(again.id), tasks.holder_of("k")) == (again, again.id)
    tasks.drop(again)
    assert (tasks.live(again.id), tasks.holder_of("k")) == (None, None)


@pytest.mark.parametrize("end", [LiveTasks.finish, LiveTasks.drop])
def test_a_key_is_free_when_its_task_has_left(end: Any) -> None:
    tasks, task = LiveTasks(10), live(idempotency_key="k")
    tasks.add(task)
    tasks.hold_key("k", task.id)
    assert tasks.holder_of("k") == task.id
    end(tasks, task)
    assert tasks.holder_of("k") is None


def test_a_key_that_has_passed_to_another_task_stays_with_that() -> None:
    tasks, first, second = LiveTasks(10), live(idempotency_key="k"), live(idempotency_key="k")
    tasks.hold_key("k", first.id)
    tasks.hold_key("k", second.id)
    tasks.finish(first)
    assert tasks.holder_of("k") == second.id


def test_a_durable_task_counts_as_unpublished_until_its_insert_is() -> None:
    tasks, durable, history = LiveTasks(10), live(), live(durable=False)
    for task in (durable, history):
        tasks.add(task)
        task.advance(Step.COMMIT)
    assert tasks.unpublished() == {durable.id: 0}
    durable.advance(Step.KNOWN)
    durable.advance(Step.LINE_UP)
    assert durable.known
    published = len(durable.record.timeline)
    assert tasks.unpublished().get(durable.id, published) == published


def test_a_task_that_is_not_live_counts_as_unpublished_while_it_is_said_to_be() -> None:
    tasks = LiveTasks(10)
    with contextlib.suppress(KeyError), tasks.unpublished_while("elsewhere", 3):
        assert tasks.unpublished() == {"elsewhere": 3}
        raise KeyError
    assert tasks.unpublished() == {}


def test_a_phase_outside_the_table_is_refused_and_changes_nothing() -> None:
    task = live()
    before = task.phase
    with pytest.raises(IllegalTransitionError):
        task.advance(Step.ENTER)
    assert task.phase is before


def test_readers_get_copies() -> None:
    tasks, task = LiveTasks(10), live()
    tasks.add(task)
    store = TaskStore(tasks)
    (shown,) = store.list()
    shown.status = TaskStatus.FAILED
    found = store.get(task.id)
    assert found is not None
    assert (found, found.status, store.get("gone")) == (task.record, TaskStatus.PENDING, None)
