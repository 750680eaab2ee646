"""The changes of one transaction as statements: which rows, in which order, and what they add to the counts."""

from __future__ import annotations

import pytest
from sqlalchemy.dialects import sqlite

from taskflow_otel.backends.base import AppendLogs, Insert, Update
from taskflow_otel.backends.sql.batch import Batch, Tally
from taskflow_otel.backends.sql.dialects import SqliteDialect
from taskflow_otel.backends.sql.statements import Statements
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.testing.backends.samples import finish, make_task


@pytest.fixture(scope="module")
def statements() -> Statements:
    return Statements(sqlite.dialect(), SqliteDialect())


def test_rows_of_one_kind_share_a_statement(statements: Statements) -> None:
    tasks = [make_task() for _ in range(250)]
    batch = Batch(statements, map(Insert, tasks))
    steps = list(batch.steps())
    assert [len(step.rows) for step in steps] == [100, 100, 50]
    assert len({step.statement for step in steps}) == 1
    assert batch.stored == {task.task_id for task in tasks}


def test_inserts_come_before_updates_whatever_their_order(statements: Statements) -> None:
    new, old = make_task(), make_task(status=TaskStatus.RUNNING)
    steps = list(Batch(statements, [Update(old), Insert(new)]).steps())
    assert [step.statement.split()[0] for step in steps] == ["INSERT", "UPDATE"]


def test_tasks_with_keys_are_inserted_in_the_order_of_their_keys(statements: Statements) -> None:
    tasks = [make_task(idempotency_key=key) for key in "cab"]
    batch = Batch(statements, map(Insert, tasks))
    rows = [row for step in batch.steps() for row in step.rows]
    found = [next(task.idempotency_key for task in tasks if task.task_id in row) for row in rows]
    assert found == ["a", "b", "c"]


def test_of_several_updates_of_one_task_the_last_is_written_once(statements: Statements) -> None:
    task = make_task(status=TaskStatus.RUNNING)
    batch = Batch(statements, [Update(task), Update(finish(task))])
    (step,) = batch.steps()
    assert len(step.rows) == 1
    assert [row[3] for row in batch.tally.rows(0)] == ["success"]


def test_no_update_follows_one_that_ends_the_task(statements: Statements) -> None:
    task = make_task(status=TaskStatus.RUNNING)
    batch = Batch(statements, [Update(finish(task)), Update(task)])
    list(batch.steps())
    assert [row[3] for row in batch.tally.rows(0)] == ["success"]


def test_updates_under_two_tokens_are_both_judged(statements: Statements) -> None:
    task = make_task(status=TaskStatus.RUNNING)
    later = task.copy()
    later.token += 1
    batch = Batch(statements, [Update(task), Update(later)])
    assert sum(len(step.rows) for step in batch.steps()) == 2


def test_log_entries_are_kept_apart(statements: Statements) -> None:
    lines = AppendLogs("some task", ())
    batch = Batch(statements, [lines])
    assert (batch.logs, list(batch.steps())) == ([lines], [])


def test_a_tally_counts_finished_tasks_by_name_queue_source_and_state() -> None:
    tally = Tally()
    tally.add(make_task())
    tally.add(finish(make_task(), seconds=1.5))
    tally.add(finish(make_task(), seconds=0.5))
    never_ran = make_task(status=TaskStatus.CANCELLED)
    tally.add(never_ran)
    assert tally.rows(3) == [
        ("send", "default", never_ran.source, "cancelled", 3, 1, 0, 0),
        ("send", "default", never_ran.source, "success", 3, 2, 2, 2_000_000),
    ]


def test_merged_tallies_add_up() -> None:
    one, other = Tally(), Tally()
    one.add(finish(make_task(func_name="a")))
    for name in "ab":
        other.add(finish(make_task(func_name=name)))
    one.merge(other)
    assert [(row[0], row[5]) for row in one.rows(0)] == [("a", 2), ("b", 1)]
