"""What a storm forgives a collector, and what it does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from taskflow_otel.model.record import TaskRecord, TimelineEntry
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.reconcile.compare import Difference
from tests.chaos.exports import Untrue

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
STORY = [
    (Transition.ENQUEUED, 0, "killed"),
    (Transition.STARTED, 0, "killed"),
    (Transition.RECOVERED, 0, "survivor"),
    (Transition.STARTED, 1, "survivor"),
    (Transition.SUCCEEDED, 1, "survivor"),
]


def a_record(task_id: str, kind: str) -> TaskRecord:
    timeline = tuple(
        TimelineEntry(transition, NOON + timedelta(seconds=second), attempt, instance)
        for second, (transition, attempt, instance) in enumerate(STORY)
    )
    return TaskRecord(task_id, kind, TaskStatus.SUCCESS, NOON, persisted=True, timeline=timeline)


RECORDS = {"1": a_record("1", "again"), "2": a_record("2", "history"), "3": a_record("3", "again")}

LOST = [
    Difference("spans", "send span of again 1", "ab", "none"),
    Difference("logs", "taskflow.task.enqueued of again 1", "1", "0"),
    Difference("logs", "taskflow.task.started of again 1", "2", "1"),
    Difference("logs", "taskflow.task.log of again 1", "1", "2"),
    Difference("logs", "taskflow.task.rejected of again 3", "0", "1"),
    Difference("spans", "status of send again ab of 3", "no error", "an error"),
    Difference("spans", "ended attempts of history 2", "0, 1", "0, 1, 1"),
    Difference("ledger", "task 4", "a record: it was exported", "none (send again, taskflow.task.rejected)"),
    # Its spans died with its process.
    Difference("ledger", "task 5", "a record: it was exported", "none (taskflow.task.enqueued, taskflow.task.started)"),
]
UNTRUE = [
    Difference("spans", "send span of again 1", "ab", "ab, cd"),
    Difference("spans", "ended attempts of again 1", "0, 1", "0"),
    Difference("spans", "ended attempts of again 1", "0, 1", "1"),
    Difference("spans", "ended attempts of again 1", "0, 1", "0, 1, 1"),
    Difference("spans", "outcome of process again ab of 1", "succeeded", "failed"),
    Difference("spans", "status of send again ab of 1", "no error", "an error"),
    Difference("spans", "links of process again ab of 1", "ab (send)", "not it"),
    Difference("logs", "taskflow.task.started of again 1", "2", "0"),
    Difference("logs", "taskflow.task.started of again 1", "2", "3"),
    Difference("logs", "taskflow.task.succeeded of again 1", "1", "0"),
    Difference("logs", "taskflow.task.rejected of again 1", "0", "1"),
    Difference("ledger", "task 4", "a record: it was exported", "none (send again, taskflow.task.enqueued)"),
    Difference("ledger", "task 4", "a record: it was exported", "none (process again)"),
    Difference("ledger", "task 4", "a record: it was exported", "none (taskflow.task.enqueued)"),
]


@pytest.mark.parametrize(("differences", "untrue"), [(LOST, False), (UNTRUE, True)], ids=["lost", "untrue"])
def test_only_what_died_with_its_process_may_be_missing(differences: list[Difference], untrue: bool) -> None:
    kinds = {"4": "again", "5": "history"}
    check = Untrue(RECORDS, kinds, lambda instance: instance == "survivor", {"3"}, {"history"})
    assert check.of(differences) == [str(one) for one in differences if untrue]
