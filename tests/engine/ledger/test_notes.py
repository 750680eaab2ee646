"""History that waits to be written: one note for each task, the oldest first, and never too many."""

from __future__ import annotations

import pytest

from taskflow_otel.backends.base import AppendLogs, AppendSpans
from taskflow_otel.engine.ledger.notes import NotedLines, NotedSpans, Notes
from taskflow_otel.engine.live import LiveTask
from taskflow_otel.engine.registry import TaskDefinition
from taskflow_otel.model.record import LogEntry
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.task_options import make_task_config
from taskflow_otel.testing.backends.samples import BASE, make_task

DEFINITION = TaskDefinition(make_task_config(name="send", executor="async"), lambda: None, None)


def live(status: TaskStatus = TaskStatus.PENDING) -> LiveTask:
    return LiveTask(make_task(status=status), DEFINITION, (), {}, None, durable=False)


def entry(number: int) -> LogEntry:
    return LogEntry(number, BASE, "info", f"line {number}", 0, {})


def test_a_task_has_one_note_which_keeps_its_place() -> None:
    notes, one, other = Notes(), live(), live()
    for task in (one, other, one):
        notes.add(task)
    assert (len(notes), notes.take(5, only_ended=False)) == (2, [one, other])
    assert len(notes) == 0


def test_finished_tasks_can_be_taken_alone() -> None:
    notes, waiting, ended = Notes(), live(), live(TaskStatus.SUCCESS)
    notes.add(waiting)
    notes.add(ended)
    assert (len(notes.ended), notes.take(5, only_ended=True)) == (1, [ended])
    assert (len(notes.ended), notes.take(5, only_ended=False)) == (0, [waiting])


def test_a_task_that_finishes_while_it_is_noted_counts_as_finished() -> None:
    notes, task = Notes(), live()
    notes.add(task)
    task.record.status = TaskStatus.FAILED
    notes.add(task)
    assert notes.take(1, only_ended=True) == [task]


def test_a_note_that_could_not_be_written_comes_back_unless_there_is_a_newer_one() -> None:
    notes, task = Notes(), live(TaskStatus.SUCCESS)
    notes.add(task)
    (taken,) = notes.take(1, only_ended=False)
    notes.put_back(taken)
    notes.put_back(taken)
    assert (len(notes), len(notes.ended)) == (1, 1)


@pytest.mark.parametrize(("most", "dropped", "left"), [(3, 0, 3), (2, 1, 2), (1, 2, 1), (0, 2, 1)])
def test_only_finished_tasks_are_dropped_the_oldest_first(most: int, dropped: int, left: int) -> None:
    notes, waiting = Notes(), live()
    ended = [live(TaskStatus.SUCCESS), live(TaskStatus.FAILED)]
    for task in (waiting, *ended):
        notes.add(task)
    assert (notes.trim(most), len(notes)) == (dropped, left)
    assert notes.take(3, only_ended=False) == [waiting, *ended[dropped:]]


def test_lines_that_could_not_be_written_come_before_those_that_came_since() -> None:
    lines = NotedLines()
    lines.add("a", entry(0))
    (taken,) = lines.take(no_one)
    assert not lines
    lines.add("a", entry(1))
    lines.put_back(taken)
    assert lines.take(no_one) == [AppendLogs("a", (entry(0), entry(1)))]


def test_of_too_many_lines_those_of_the_oldest_tasks_are_dropped_whole() -> None:
    lines = NotedLines()
    for number, task_id in enumerate("aabbb"):
        lines.add(task_id, entry(number))
    assert lines.trim(5) == 0
    assert lines.trim(4) == 2
    assert [taken.task_id for taken in lines.take(no_one)] == ["b"]
    assert lines.trim(0) == 0


def spans(number: int, text: str = "x" * 10) -> AppendSpans:
    return AppendSpans(f"task {number}", "one", 1, 0, text)


def no_one(_: str) -> bool:
    return False


def test_spans_wait_for_the_note_of_their_task_and_the_oldest_are_dropped_for_newer_ones() -> None:
    waiting = NotedSpans(40)
    assert [waiting.add(spans(number)) for number in range(4)] == [0] * 4
    assert waiting.take(10, {"task 1", "task 3"}.__contains__) == [spans(0), spans(2)]
    assert waiting.take(1, no_one) == [spans(1)]
    # A failed write puts them back, if there is still room.
    assert waiting.put_back(spans(1)) == 0
    assert waiting.take(10, no_one) == [spans(1), spans(3)]
    assert not waiting
    assert (waiting.add(spans(5, "x" * 35)), waiting.put_back(spans(6))) == (0, 1)
    assert waiting.add(spans(7)) == 1
    assert waiting.take(10, no_one) == [spans(7)]


def test_only_the_first_note_of_a_task_stores_it() -> None:
    notes, one, stored = Notes(), live(), live()
    stored.stored = True
    notes.add(one)
    notes.add(stored)
    assert [notes.will_insert(task_id) for task_id in (one.id, stored.id, "another")] == [True, False, False]
