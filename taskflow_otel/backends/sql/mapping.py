"""Converts records, log entries and instances into rows, and back. This is the only place that does so.

Times are stored as whole microseconds since 1970 in UTC: integers compare and subtract the same way in every database.
Structures are stored as ASCII JSON, which no text encoding can damage.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from json.encoder import encode_basestring_ascii
from operator import attrgetter
from typing import Any

from sqlalchemy import BigInteger, Double, Integer, SmallInteger, String, Text
from sqlalchemy.dialects.mysql import LONGTEXT
from sqlalchemy.types import TypeEngine

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
    without_surrogates,
)
from taskflow_otel.model.plain import digest, distinct_text, encodable, repr_of, text_of
from taskflow_otel.model.query import Instance
from taskflow_otel.model.record import LogEntry, Progress, TaskRecord, TimelineEntry
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.trace import SpanRef, TaskTrace

ID = String(64)
WORD = String(32)
NAME = String(255)
LONG = Text().with_variant(LONGTEXT(), "mysql", "mariadb")
MICROS = BigInteger()
WHOLE = Integer()
FLAG = SmallInteger()

logger: logging.Logger = logging.getLogger("taskflow_otel.backends")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KEY_LENGTH = 255
_AT_ONCE = 100

_strict = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_raw_decode = json.JSONDecoder().raw_decode
# What the encoder does for a text, without its other work.
_text = encode_basestring_ascii
_TRANSITIONS = {transition.value: transition for transition in Transition}
_TRANSITIONS_OUT = {transition: _text(transition.value) for transition in Transition}
_EMPTY = _text("")


def _encode(value: object) -> str:
    try:
        return _strict(value)
    except (TypeError, ValueError, RecursionError):
        # The engine writes plain data. Data from elsewhere must not make the backend refuse the whole batch.
        return _strict(encodable(value))


def _decode(text: str) -> Any:
    # Two thirds of the time of `json.loads`: stored JSON has no surrounding whitespace.
    return without_surrogates(text, _raw_decode(text)[0])


def micros(moment: datetime) -> int:
    """Whole microseconds since 1970 in UTC."""
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def moment(value: int) -> datetime:
    """The aware datetime of a number of microseconds."""
    return _EPOCH + timedelta(0, 0, value)


def indexable(text: str) -> str:
    """The text itself, or its digest if an index could not hold it or distinguish it from another text.

    Databases limit the length of an index entry, and some ignore trailing spaces in comparisons.
    """
    if len(text) <= _KEY_LENGTH and not text.endswith(" "):
        return distinct_text(text)
    return digest(text)


def storable(text: str) -> str:
    """The text without NUL characters and lone surrogates, which databases do not store."""
    if "\x00" in text:
        text = text.replace("\x00", "\ufffd")
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def tags_out(tags: dict[str, str]) -> str:
    """The stored form of tags."""
    return _encode(tags) if tags else "{}"


def _progress_out(progress: Progress) -> str:
    return _encode((progress.done, progress.total, progress.message))


def _tags_in(text: str) -> dict[str, str]:
    return {} if text == "{}" else read_tags(_decode(text))


def _progress_in(text: str) -> Progress:
    return read_progress(*_decode(text))


def timeline_out(timeline: Sequence[TimelineEntry]) -> str:
    """The stored form of a timeline."""
    # Every write of a task contains its timeline. This takes a fifth of the encoder's time.
    parts: list[str] = []
    instance = written = ""
    for entry in timeline:
        if entry.instance != instance:
            instance = entry.instance
            written = _text(instance)
        # `micros` without the call.
        delta = entry.timestamp - _EPOCH
        at = (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
        tail = "null]" if entry.reason is None and entry.due_at is None else _reason_and_due(entry)
        parts.append(f"[{_TRANSITIONS_OUT[entry.transition]},{at},{entry.attempt},{written or _EMPTY},{tail}")
    return f"[{','.join(parts)}]"


def _reason_and_due(entry: TimelineEntry) -> str:
    reason = "null" if entry.reason is None else _text(entry.reason)
    return f"{reason}]" if entry.due_at is None else f"{reason},{micros(entry.due_at)}]"


def _timeline_in(text: str) -> tuple[TimelineEntry, ...]:
    return tuple(
        [
            read_timeline_entry(_TRANSITIONS[transition], moment(at), attempt, instance, reason, *map(moment, due))
            for transition, at, attempt, instance, reason, *due in _decode(text)
        ]
    )


def failures_out(failures: Sequence[AttemptFailure]) -> str | None:
    """The stored form of the failures of a task; `None` if it has none."""
    if not failures:
        return None
    return _encode(
        [
            (f.attempt, f.fingerprint, f.error_type, f.error, f.frames, f.retry_at and micros(f.retry_at))
            for f in failures
        ]
    )


def _failures_in(text: str) -> tuple[AttemptFailure, ...]:
    return tuple(
        [
            read_failure(attempt, kind, error_type, error, frames, None if at is None else moment(at))
            for attempt, kind, error_type, error, frames, at in _decode(text)
        ]
    )


def _span_out(ref: SpanRef | None) -> str:
    if ref is None:
        return "null"
    return f"[{_text(ref.trace_id)},{_text(ref.span_id)},{ref.trace_flags},{_text(ref.tracestate)}]"


def _span_in(value: list[Any] | None) -> SpanRef | None:
    return None if value is None else SpanRef(*value)


_UNTRACED = TaskTrace(attempt=SpanRef())
"""That of a task whose attempt has begun, where nothing makes spans."""
_UNTRACED_OUT = f'[{_span_out(_UNTRACED.creation)},{_span_out(_UNTRACED.attempt)},null,""]'


def trace_out(trace: TaskTrace) -> str:
    """The stored form of a task's trace data; empty without tracing."""
    if trace.attempt is None and not trace.creation.trace_id and not trace.baggage:
        return ""
    if trace == _UNTRACED:
        return _UNTRACED_OUT
    spans = f"{_span_out(trace.creation)},{_span_out(trace.attempt)},{_span_out(trace.previous)}"
    return f"[{spans},{_text(trace.baggage)}]"


def _trace_in(text: str) -> TaskTrace:
    if not text:
        return TaskTrace()
    creation, attempt, previous, baggage = _decode(text)
    return read_trace(TaskTrace(SpanRef(*creation), _span_in(attempt), _span_in(previous), baggage))


@dataclass(frozen=True, slots=True)
class Field:
    """One column of the tasks table, and the attribute of the same name.

    `encode` makes the stored value from the attribute, and `decode` reverses it; neither gets `None`. Without them the
    value is stored unchanged. Every `Update` writes the `mutable` columns.
    """

    name: str
    type: TypeEngine[Any]
    encode: Callable[[Any], Any] | None = None
    decode: Callable[[Any], Any] | None = None
    mutable: bool = False
    nullable: bool = True


STORED: tuple[Field, ...] = (
    Field("task_id", ID, nullable=False),
    Field("func_name", NAME, nullable=False),
    Field("source", WORD, nullable=False),
    Field("priority", WHOLE, nullable=False),
    Field("executor", WORD, nullable=False),
    Field("queue", NAME, nullable=False),
    Field("instance", NAME, nullable=False),
    Field("token", MICROS, nullable=False),
    Field("retry_of", ID),
    Field("retried_by", ID),
    Field("duration", Double(), None, read_duration, mutable=True),
    Field("attempt", WHOLE, mutable=True, nullable=False),
    Field("retries_used", WHOLE, mutable=True, nullable=False),
    Field("duplicate_of", ID, mutable=True),
    Field("logs_dropped", WHOLE, mutable=True, nullable=False),
    Field("crashes", WHOLE, mutable=True, nullable=False),
    Field("created_at", MICROS, micros, moment, nullable=False),
    Field("persisted", FLAG, int, bool, nullable=False),
    Field("cancel_requested", FLAG, int, bool, nullable=False),
    Field("status", WORD, attrgetter("value"), TaskStatus, mutable=True, nullable=False),
    Field("run_at", MICROS, micros, moment, mutable=True),
    Field("start_time", MICROS, micros, moment, mutable=True),
    Field("end_time", MICROS, micros, moment, mutable=True),
    Field("idempotency_key", LONG, distinct_text),
    Field("error", LONG, storable, mutable=True),
    Field("error_type", LONG, storable, mutable=True),
    Field("reason", LONG, storable, mutable=True),
    # Long columns come last: a scan that needs only earlier columns does not read them.
    Field("tags", LONG, tags_out, _tags_in, nullable=False),
    Field("stacktrace", LONG, storable, mutable=True),
    Field("progress", LONG, _progress_out, _progress_in, mutable=True),
    Field("timeline", LONG, timeline_out, _timeline_in, mutable=True, nullable=False),
    Field("trace", LONG, trace_out, _trace_in, mutable=True, nullable=False),
    Field("payload", LONG),
    # The last column of them, as in a table that was migrated to have it.
    Field("failures", LONG, failures_out, _failures_in, mutable=True),
)
"""The columns of a record, in the order that `to_record` expects."""

DERIVED: tuple[Field, ...] = (
    # Each is empty in most rows, so that its partial index is small.
    Field("trace_id", ID, mutable=True),
    Field("active_key", NAME, mutable=True),
    Field("live_owner", NAME, mutable=True),
    Field("finished_at", MICROS, mutable=True),
    Field("fingerprint", WORD, mutable=True),
)
"""The columns that only queries need: `_derive` computes them."""


def _derive(record: TaskRecord) -> tuple[str | None, str | None, str | None, int | None, str | None]:
    key = record.active_key
    key = None if key is None else indexable(key)
    if record.status.finished:
        return record.trace_id, key, None, micros(record.end_time or record.created_at), record.fingerprint
    return record.trace_id, key, record.instance, None, record.fingerprint


def row_maker(fields: Sequence[Field]) -> Callable[[TaskRecord], tuple[Any, ...]]:
    """Return a function that maps a record to the values of these columns of `STORED`, followed by `DERIVED`."""
    attributes = attrgetter(*(field.name for field in fields))
    encoders = [(at, field.encode) for at, field in enumerate(fields) if field.encode is not None]

    def row(record: TaskRecord) -> tuple[Any, ...]:
        values = list(attributes(record))
        for at, encode in encoders:
            if (value := values[at]) is not None:
                values[at] = encode(value)
        return (*values, *_derive(record))

    return row


_DECODERS = tuple((at, field.decode) for at, field in enumerate(STORED) if field.decode is not None)
_ATTRIBUTES = tuple(field.name for field in STORED)
_FAILURES = _ATTRIBUTES.index("failures")
_shape = Shape(_ATTRIBUTES)


async def to_records(rows: Sequence[Any]) -> list[TaskRecord]:
    """The records of many rows, in slices that do not hold up the event loop."""
    records: list[TaskRecord] = []
    for start in range(0, len(rows), _AT_ONCE):
        if start:
            await asyncio.sleep(0)
        records += [to_record(row) for row in rows[start : start + _AT_ONCE]]
    return records


def to_record(row: Iterable[Any]) -> TaskRecord:
    """The record of a row with the columns of `STORED`; a damaged row is mended (see `mended`)."""
    stored = list(row)
    values = stored.copy()
    try:
        for at, decode in _DECODERS:
            if (value := values[at]) is not None:
                values[at] = decode(value)
        if values[_FAILURES] is None:
            values[_FAILURES] = ()
    except Exception:  # the row may hold anything
        return _mended(stored)
    if not _shape.fits(values):
        return _mended(stored)
    return TaskRecord(**dict(zip(_ATTRIBUTES, values, strict=True)))


def _mended(row: Sequence[Any]) -> TaskRecord:
    values: dict[str, Any] = {}
    for field, value in zip(STORED, row, strict=True):
        try:
            values[field.name] = value if field.decode is None or value is None else field.decode(value)
        except Exception:  # as above
            logger.debug("the %s of a stored task cannot be read", field.name)
    if values.get("failures", ()) is None:
        values["failures"] = ()
    return mended(values, dict(zip(_ATTRIBUTES, row, strict=True)))


def log_row(task_id: str, entry: LogEntry) -> tuple[Any, ...]:
    """The row of one log entry, in the order of the table's columns."""
    extra = _encode(entry.extra) if entry.extra else None
    return task_id, entry.seq, micros(entry.timestamp), entry.level, storable(entry.message), entry.attempt, extra


def to_log_entry(row: Sequence[Any]) -> LogEntry:
    """The log entry of a row; of a damaged row, the readable parts."""
    _, seq, timestamp, level, message, attempt, extra = row
    try:
        plain = read_extra(_decode(extra)) if extra else {}
    except Exception:  # the row may hold anything
        plain = {"…": f"[cannot be read: {repr_of(extra)}]"}
    try:
        at = moment(timestamp)
    except Exception:  # as above
        at = NO_TIME
    if type(message) is not str or type(level) is not str or type(attempt) is not int or attempt.bit_length() > 63:
        message, level, attempt = text_of(message), text_of(level), 0
    return LogEntry(seq, at, level, message, attempt, plain)


def tag_rows(record: TaskRecord) -> list[tuple[Any, ...]]:
    """The tag rows of a task, in the order of the table's columns."""
    created = micros(record.created_at)
    return [(record.task_id, indexable(name), indexable(value), created) for name, value in record.tags.items()]


def instance_values(instance: Instance) -> dict[str, Any]:
    """The columns of an instance."""
    return {
        "instance_id": instance.instance_id,
        "host": instance.host,
        "pid": instance.pid,
        "process_started": instance.process_started,
        "started_at": micros(instance.started_at),
        "heartbeat_at": micros(instance.heartbeat_at),
        "lease_seconds": instance.lease_seconds,
        "state": instance.state,
    }


def to_instance(row: Sequence[Any]) -> Instance:
    """The instance of a row."""
    instance_id, host, pid, process_started, started_at, heartbeat_at, lease_seconds, state = row
    return Instance(
        instance_id, host, pid, process_started, moment(started_at), moment(heartbeat_at), lease_seconds, state
    )
