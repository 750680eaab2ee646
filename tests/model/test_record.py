"""A record and its copies."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from taskflow_otel.model.record import LogEntry, TaskRecord, TimelineEntry
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.trace import SpanRef

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_copy_is_equal_and_does_not_see_what_happens_to_its_original() -> None:
    record = TaskRecord("id", "name", TaskStatus.PENDING, MOMENT)
    record.timeline += (TimelineEntry(Transition.ENQUEUED, MOMENT, 0, "instance"),)
    copy = record.copy()
    assert copy == record
    record.timeline += (TimelineEntry(Transition.STARTED, MOMENT, 0, "instance"),)
    record.trace.attempt = SpanRef("1" * 32, "1" * 16)
    record.status = TaskStatus.RUNNING
    assert (copy.status, len(copy.timeline), copy.trace.attempt) == (TaskStatus.PENDING, 1, None)


def test_two_new_records_share_nothing_that_changes() -> None:
    one, other = (TaskRecord("id", "name", TaskStatus.PENDING, MOMENT) for _ in range(2))
    one.timeline += (TimelineEntry(Transition.ENQUEUED, MOMENT, 0, "instance"),)
    one.trace.creation.trace_id = "1" * 32
    one.tags["tag"] = "value"
    assert (other.timeline, other.trace.creation, other.tags) == ((), SpanRef(), {})


def test_a_record_as_plain_data_has_its_fields_and_no_arguments() -> None:
    record = TaskRecord("id", "name", TaskStatus.FAILED, MOMENT, payload='{"v":1,"args":[7],"kwargs":{"a":1}}')
    record.logs = [LogEntry(0, MOMENT, "info", "said", 0, {})]
    data = record.to_dict()
    assert (data["status"], data["created_at"], data["logs"][0]["message"]) == (
        "failed",
        "2026-01-01T00:00:00Z",
        "said",
    )
    assert not {"payload", "args", "kwargs", "token"} & data.keys()
    assert json.loads(json.dumps(data)) == data | {"timeline": [], "failures": []}
    assert str(record.logs[0]) == "said"
    assert (record.args, record.kwargs) == ((7,), {"a": 1})
    record.payload = "fernet1:0123456789abcdef:secret"
    assert (record.args, record.kwargs) == ((), {})
