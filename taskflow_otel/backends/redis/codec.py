"""Records, log entries and instances as texts for Redis. Times are whole microseconds in UTC.

The scripts read only a few fields (owner, token, status, indexes). Everything else is in two JSON texts: `head`,
written once, and `doc`, written with each change.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any

import msgspec

from taskflow_otel.backends.pool import Pooled
from taskflow_otel.model.cipher import seal_of
from taskflow_otel.model.failure import AttemptFailure
from taskflow_otel.model.figures import Span, figures_of
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
from taskflow_otel.model.plain import distinct_text, encodable, is_storable, repr_of, text_of
from taskflow_otel.model.query import Instance
from taskflow_otel.model.record import LogEntry, Progress, TaskRecord, TimelineEntry
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.trace import SpanRef, TaskTrace
from taskflow_otel.model.vocabulary import LogLevel

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def to_json(value: object) -> str:
    """Return compact JSON as valid UTF-8; raises `TypeError` or `ValueError` for values without a JSON form."""
    text = _encode(value)
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError:
        return _encode(encodable(value))
    return text


_encode_plain = msgspec.json.Encoder().encode


def plain_json(value: object) -> str:
    """The same for texts, finite numbers and lists of them, in a fifth of the time.

    Only for those: this encoder also takes what has no JSON form, such as NaN, and writes something else in its place.
    """
    try:
        return _encode_plain(value).decode()
    except (UnicodeEncodeError, TypeError):
        # A lone surrogate, or a subclass of `str`.
        return to_json(value)


def _decode(text: str) -> Any:
    return without_surrogates(text, json.loads(text))


def to_micros(moment: datetime) -> int:
    """Return an aware datetime as microseconds since 1970."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def from_micros(micros: int) -> datetime:
    """Return microseconds since 1970 as an aware datetime in UTC."""
    return _EPOCH + timedelta(microseconds=micros)


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
        values = _decode(stored)
        for place, _, back in self._convert:
            if values[place] is not None:
                values[place] = back(values[place])
        return dict(zip(self.names, values, strict=True))

    def load_damaged(self, stored: object) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the readable attributes, and the raw content of the others."""
        try:
            found = _decode(stored)  # type: ignore[arg-type]  # whatever it is
            raw = dict(zip(self.names, found, strict=True))
        except Exception:  # the row may hold anything
            return {}, dict.fromkeys(self.names, stored)
        read: dict[str, Any] = {}
        backs = {self.names[place]: back for place, _, back in self._convert}
        for name, value in raw.items():
            with contextlib.suppress(Exception):  # as above
                read[name] = backs[name](value) if name in backs and value is not None else value
        return read, {name: value for name, value in raw.items() if name not in read}


def _storable_key(key: str | None) -> str | None:
    return None if key is None else distinct_text(key)


def old_key(key: str | None) -> tuple[str, ...]:
    """The form in which version 0.1.0 stored a key, if it was another one."""
    return () if key is None or is_storable(key) else (key,)


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


def _failures_out(failures: Sequence[AttemptFailure]) -> str:
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
            for attempt, kind, error_type, error, frames, at in _decode(stored)
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


def tag_dimension(key: str, value: str | None) -> str:
    """Return the index of a tag; without a value, the index of all tags with this key."""
    return f"k{key}" if value is None else f"t{len(key)}:{key}={value}"


def dimensions(record: TaskRecord) -> list[str]:
    """Return the indexes of a task: one for each filter that can find it."""
    dims = ["", f"f{record.func_name}", f"q{record.queue}", f"s{record.source}"]
    if trace_id := record.trace_id:
        dims.append(f"r{trace_id}")
    if (fingerprint := record.fingerprint) is not None:
        dims.append(f"p{fingerprint}")
    for key, value in record.tags.items():
        dims += (tag_dimension(key, None), tag_dimension(key, value))
    return dims


def _search_text(record: TaskRecord) -> str:
    """Return the text that `q` searches besides the id."""
    return f"{record.func_name}\0{record.error or ''}".lower()


def _group(record: TaskRecord) -> str:
    """The group of a live task. For sealed arguments, the name is followed by NUL and the seal."""
    seal = seal_of(record.payload)
    return f"{record.persisted:d}{record.func_name}" + ("" if seal is None else f"\0{seal}")


def groups_of(names: Collection[str], seals: Collection[str]) -> list[str]:
    """Return the groups of these names, without their first character: unsealed, and with each of these seals."""
    return sorted([*names, *(f"{name}\0{seal}" for name in names for seal in seals)])


def read_group(group: str) -> tuple[bool, str, str]:
    """Return whether the tasks of a group are persisted, their name, and their seal (empty without one)."""
    name, _, seal = group[1:].partition("\0")
    return group[:1] == "1", name, seal


Field = str | bool | None | list[str | int]
"""A field of a change for `apply.lua`."""


def _figures(record: TaskRecord) -> list[str | int]:
    """The figures of a finished task, in the order of `apply.lua`."""
    ended = record.end_time or record.created_at
    found: list[str | int] = [str(span.slot(ended)) for span in Span]
    for kind, bucket, micros in figures_of(record):
        found += (f"{kind}:{bucket}:{record.func_name}", micros)
    return found


def pooled_fields(task: Pooled) -> list[str]:
    """Return the fields of a task that goes into the pool, in the order of `pool_give.lua`."""
    group = f"1{task.func_name}" + ("" if task.seal is None else f"\0{task.seal}")
    created, since = to_micros(task.created_at), to_micros(task.since)
    return [task.task_id, task.queue, str(-task.priority), group, str(created), str(since)]


def failed_fields(record: TaskRecord) -> list[str | int]:
    """The fingerprint of a task that failed (empty if it is over it) and its failures, in the order of `apply.lua`."""
    return [record.fingerprint or "", _failures_out(record.failures)] if record.failures else []


def update_fields(record: TaskRecord) -> list[Field]:
    """Return the fields of an update, in the order of `apply.lua`."""
    duration = ended = ""
    figures: list[str | int] = []
    if record.status.finished:
        figures = _figures(record)
        duration = "" if record.duration is None else str(round(record.duration * 1_000_000))
        ended = str(to_micros(record.end_time or record.created_at))
    return [
        record.task_id,
        record.instance,
        str(record.token),
        record.status.value,
        plain_json(dimensions(record)),
        _storable_key(record.idempotency_key),
        record.active_key is not None,
        duration,
        ended,
        _search_text(record),
        _group(record),
        str(to_micros(record.created_at)),
        figures,
        failed_fields(record),
    ]


def insert_fields(record: TaskRecord) -> list[Field]:
    """Return the fields of an insert, in the order of `apply.lua`."""
    return [
        *update_fields(record),
        "1" if record.cancel_requested else "",
        record.retried_by or "",
    ]


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
        at, level, message, attempt, extra = _decode(stored)
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


def made_at(task_id: str) -> int:
    """Return the end of the millisecond of a UUIDv7 (RFC 9562, section 5.7), in microseconds."""
    try:
        return (uuid.UUID(task_id).int >> 80) * 1_000 + 999
    except ValueError:
        return 0
