"""The JSON of the API: what is sent of a record, of its arguments, and of figures that do not exist."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.fernet import Fernet

from taskflow_otel.model.board import Said
from taskflow_otel.model.cipher import PayloadCipher
from taskflow_otel.model.query import Loss, TaskCounts
from taskflow_otel.model.record import LogEntry, TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.testing.backends.samples import BASE, full_task, make_instance, make_task
from taskflow_otel.web.answers import (
    instance_out,
    shown_arguments,
    stats_out,
    task_detail,
    task_out,
)

HIDDEN = {"payload", "token", "persisted", "crashes", "trace", "cancel_requested", "logs_dropped", "failures"}
"""What of a record a list does not show; some of it the task itself does."""


def test_every_field_of_a_record_is_shown_under_its_name_or_hidden_on_purpose() -> None:
    shown = set(task_out(full_task(), with_args=True).model_dump())
    fields = set(TaskRecord.__struct_fields__)
    assert fields - shown == HIDDEN
    assert shown - fields == {"args", "kwargs", "trace_id", "span_id", "due_at", "fingerprint"}


def test_a_list_has_neither_logs_nor_tracebacks_and_the_task_itself_has() -> None:
    task, entry = full_task(), LogEntry(0, BASE, "info", "hello", 0, {"n": 1})
    row, detail = task_out(task, with_args=False), task_detail(task, [entry], with_args=False)
    assert (row.logs, row.stacktrace, row.args) == (None, None, None)
    assert detail.stacktrace == task.stacktrace
    assert detail.logs is not None
    assert [line.message for line in detail.logs] == ["hello"]
    assert detail.logs_dropped == 4


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (None, (None, None)),
        ('{"v":1,"args":["a"],"kwargs":{"n":1}}', (["a"], {"n": 1})),
        ("{", (None, None)),
        ("[]", (None, None)),
        ('{"v":99}', (None, None)),
        (PayloadCipher(Fernet.generate_key()).encrypt('{"v":1}'), (None, None)),
    ],
)
def test_arguments_that_cannot_be_read_are_not_shown_and_hide_nothing_else(payload: str | None, shown: Any) -> None:
    assert shown_arguments(payload) == shown
    assert task_out(make_task(payload=payload), with_args=True).func_name == "send"


def test_without_anything_to_judge_there_is_no_rate_and_no_average() -> None:
    stats = stats_out(TaskCounts({TaskStatus.PENDING: 2}))
    assert (stats.total, stats.pending, stats.success) == (2, 2, 0)
    assert (stats.success_rate, stats.avg_duration_seconds) == (None, None)


def test_cancelled_tasks_count_neither_as_success_nor_as_failure() -> None:
    counts = {TaskStatus.SUCCESS: 3, TaskStatus.FAILED: 1, TaskStatus.CANCELLED: 96}
    assert stats_out(TaskCounts(counts, duration_sum=10, duration_count=4)).success_rate == 0.75


def test_one_instance_is_the_one_that_answers() -> None:
    one, other = make_instance("one"), make_instance("other", state="dead")
    answers = [instance_out(instance, "one", Loss()) for instance in (one, other)]
    assert [(out.answering, out.state) for out in answers] == [(True, "alive"), (False, "dead")]
    assert [(out.kind, out.release) for out in answers] == [(None, None)] * 2
    said = instance_out(one, "one", Loss(), Said(kind="worker", release="1.4.2"))
    assert (said.kind, said.release) == ("worker", "1.4.2")
