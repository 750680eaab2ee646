"""Records, log entries and instances as texts for Redis, and back, whatever a row holds.

The scripts read only a few fields (owner, token, status, indexes). Everything else is in two JSON texts: `head`,
written once, and `doc`, written with each change.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from taskflow_otel.backends.redis.texts import from_json, from_micros, plain_json, to_json, to_micros
from taskflow_otel.model.failure import AttemptFailure
from taskflow_otel.model.mended import (
    NO_TIME,
    Shape,
    mended,
    read_duration,
    read_extra,
    read_failure,
    read_progress,
    read_tags,
    read_timeline_entry,
    read_trace,
)
from taskflow_otel.model.plain import distinct_text, encodable, repr_of, text_of
from taskflow_otel.model.query import Instance
from taskflow_otel.model.record import LogEntry, Progress, TaskRecord, TimelineEntry
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.trace import SpanRef, TaskTrace
from taskflow_otel.model.vocabulary import LogLevel


def _span_out(span: SpanRef | None) -> list[Any] | None:
    return None if span is None else [span.trace_id, span.span_id, span.trace_flags, span.tracestate]


def _span_in(stored: list[Any] | None) -> SpanRef | None:
    return None if stored is None else SpanRef(*stored)


def _trace_out(trace: TaskTrace) -> list[Any]:
    return [_span_out(trace.creation), _span_out(trace.attempt), _span_out(trace.previous), trace.baggage]


def _trace_in(stored: list[Any]) -> TaskTrace:
    creation, attempt, previous, baggage = stored
    return read_trace(TaskTrace(_span_in(creation) or SpanRef(), _span_in(attempt), _span_in(previous), baggage))


def _timeline_out(timeline: tuple[TimelineEntry, ...]) -> list[list[Any]]:
    return [
        [e.transition.value, to_micros(e.timestamp), e.attempt, e.instance, e.reason]
        + ([] if e.due_at is None else [to_micros(e.due_at)])
        for e in timeline
    ]


def _timeline_in(stored: list[list[Any]]) -> tuple[TimelineEntry, ...]:
    return tuple(
        [
            read_timeline_entry(
                Transition(transition), from_micros(at), attempt, instance, reason, *map(from_micros, due)
            )
            for transition, at, attempt, instance, reason, *due in stored
        ]
    )


def _progress_out(progress: Progress) -> list[Any]:
    return [progress.done, progress.total, progress.message]


def _progress_in(stored: list[Any]) -> Progress:
    return read_progress(*stored)


class _Text:
    """Some attributes of a record as one JSON list. `convert` has both conversions for those without a JSON form."""

    def __init__(self, *names: str, convert: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]]) -> None:
        self.names = names
        self._values = attrgetter(*names)
        self._convert = [(names.index(name), out, back) for name, (out, back) in convert.items()]

    def dump(self, record: TaskRecord) -> str:
        values = list(self._values(record))
        for place, out, _ in self._convert:
            if values[place] is not None:
                values[place] = out(values[place])
        # What people report as progress is the only number that may be of any kind.
        return plain_json(values) if record.progress is None else to_json(values)

    def load(self, stored: str) -> dict[str, Any]:
        values = from_json(stored)
        for place, _, back in self._convert:
            if values[place] is not None:
                values[place] = back(values[place])
        return dict(zip(self.names, values, strict=True))

    def load_damaged(self, stored: object) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the readable attributes, and the raw content of the others."""
        try:
            found = from_json(stored)  # type: ignore[arg-type]  # whatever it is
            raw = dict(zip(self.names, found, strict=True))
        except Exception:  # the row may hold anything
            return {}, dict.fromkeys(self.names, stored)
        read: dict[str, Any] = {}
        backs = {self.names[place]: back for place, _, back in self._convert}
        for name, value in raw.items():
            with contextlib.suppress(Exception):  # as above
                read[name] = backs[name](value) if name in backs and value is not None else value
        return read, {name: value for name, value in raw.items() if name not in read}


_TIME = (to_micros, from_micros)

_HEAD = _Text(
    "func_name",
    "created_at",
    "tags",
    "idempotency_key",
    "source",
    "retry_of",
    "payload",
    "persisted",
    convert={"created_at": _TIME, "tags": (dict, read_tags), "idempotency_key": (distinct_text, str)},
)
"""The attributes that never change after the insert."""

_DOC = _Text(
    "run_at",
    "start_time",
    "end_time",
    "duration",
    "attempt",
    "retries_used",
    "error",
    "error_type",
    "stacktrace",
    "priority",
    "executor",
    "queue",
    "progress",
    "reason",
    "timeline",
    "duplicate_of",
    "logs_dropped",
    "crashes",
    "trace",
    convert={
        "run_at": _TIME,
        "start_time": _TIME,
        "end_time": _TIME,
        "duration": (float, read_duration),
        "progress": (_progress_out, _progress_in),
        "timeline": (_timeline_out, _timeline_in),
        "trace": (_trace_out, _trace_in),
    },
)
"""The attributes that change with the task; each update writes all of them."""

ERROR_TYPE_AT = str(_DOC.names.index("error_type") + 1)
"""The place of the error's type in a document, as Lua counts."""

ROW_FIELDS = ("owner", "token", "status", "cancel", "retried_by", "head", "doc", "failures")
"""The fields of a row in the order of the script function `row`; the task id comes last."""


def dump_failures(failures: Sequence[AttemptFailure]) -> str:
    """Return the failures of a task as JSON."""
    return to_json(
        [
            [f.attempt, f.fingerprint, f.error_type, f.error, f.frames, f.retry_at and to_micros(f.retry_at)]
            for f in failures
        ]
    )


def _failures_in(stored: str | None) -> tuple[AttemptFailure, ...]:
    if stored is None:
        return ()
    return tuple(
        [
            read_failure(attempt, kind, error_type, error, frames, None if at is None else from_micros(at))
            for attempt, kind, error_type, error, frames, at in from_json(stored)
        ]
    )


def load_record(row: Sequence[Any]) -> TaskRecord:
    """Return the record of a row (see `ROW_FIELDS`); a damaged row is mended (see `mended`)."""
    owner, token, status, cancel, retried_by, head, doc, failures, task_id = row
    try:
        values = {
            "task_id": task_id,
            "status": TaskStatus(status),
            "instance": owner,
            "token": int(token),
            "cancel_requested": cancel is not None,
            "retried_by": retried_by,
            "failures": _failures_in(failures),
            **_HEAD.load(head),
            **_DOC.load(doc),
        }
    except Exception:  # the row may hold anything
        return _mended(row)
    return TaskRecord(**values) if _shape.fits(values.values()) else _mended(row)


_LOOSE = ("task_id", "status", "instance", "token", "cancel_requested", "retried_by", "failures")
_shape = Shape((*_LOOSE, *_HEAD.names, *_DOC.names))


def _mended(row: Sequence[Any]) -> TaskRecord:
    owner, token, status, cancel, retried_by, head, doc, failures, task_id = row
    values: dict[str, Any] = {
        "task_id": task_id,
        "instance": owner,
        "cancel_requested": cancel is not None,
        "retried_by": retried_by,
    }
    stored = {"status": status, "token": token, "failures": failures}
    with contextlib.suppress(Exception):  # the row may hold anything
        values["failures"] = _failures_in(failures)
    with contextlib.suppress(ValueError, TypeError):
        values["status"] = TaskStatus(status)
    with contextlib.suppress(ValueError, TypeError):
        values["token"] = int(token)
    for text, source in ((_HEAD, head), (_DOC, doc)):
        read, raw = text.load_damaged(source)
        values |= read
        stored |= raw
    return mended(values, stored)


def dump_head(record: TaskRecord) -> str:
    """Return the constant attributes of a task."""
    return _HEAD.dump(record)


def dump_doc(record: TaskRecord) -> str:
    """Return the changing attributes of a task, except those that the scripts read."""
    return _DOC.dump(record)


def dump_log(entry: LogEntry) -> list[str]:
    """Return a log entry as its position and its text."""
    stored = [to_micros(entry.timestamp), entry.level, entry.message, entry.attempt, entry.extra]
    try:
        return [str(entry.seq), to_json(stored)]
    except (TypeError, ValueError, RecursionError):
        # The engine writes plain data. Data from elsewhere must not make the backend refuse the whole batch.
        return [str(entry.seq), to_json(encodable(stored))]


def load_log(seq: int, stored: str) -> LogEntry:
    """Return the stored log entry with the position `seq`."""
    try:
        at, level, message, attempt, extra = from_json(stored)
        entry = LogEntry(seq, from_micros(at), level, message, attempt, read_extra(extra))
    except (ValueError, TypeError, OverflowError, RecursionError):
        return LogEntry(seq, NO_TIME, LogLevel.INFO.value, f"[cannot be read: {repr_of(stored, 1_000)}]", 0, {})
    if type(message) is str and type(level) is str and type(attempt) is int:
        return entry
    return LogEntry(seq, entry.timestamp, text_of(level), text_of(message), 0, entry.extra)


def dump_instance(instance: Instance) -> list[str]:
    """Return the fields of an instance, in the order of `beat.lua`."""
    doc = [
        instance.instance_id,
        instance.host,
        instance.pid,
        instance.process_started,
        to_micros(instance.started_at),
        instance.lease_seconds,
    ]
    return [instance.instance_id, str(to_micros(instance.heartbeat_at)), instance.state, to_json(doc)]


def load_instance(row: Sequence[str]) -> Instance:
    """Return the instance of a row of `instances.lua`."""
    stored, heartbeat, state = row
    instance_id, host, pid, process_started, started_at, lease_seconds = json.loads(stored)
    return Instance(
        instance_id=instance_id,
        host=host,
        pid=pid,
        process_started=process_started,
        started_at=from_micros(started_at),
        heartbeat_at=from_micros(int(heartbeat)),
        lease_seconds=lease_seconds,
        state=state,
    )
