"""Damaged rows: a record with the parts that can be read, and a note of those that cannot."""

from __future__ import annotations

import types
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Union, get_args, get_origin, get_type_hints

from taskflow_otel.model.failure import AttemptFailure
from taskflow_otel.model.plain import encodable, kept_extra, kept_tags, plain_number, plain_value, repr_of, text_of
from taskflow_otel.model.record import Progress, TaskRecord, TimelineEntry
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.trace import TaskTrace

NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)
"""The creation time of a task whose stored one cannot be read."""
_REMEMBERED = 10_000


def _kinds(hint: Any) -> frozenset[type]:
    if get_origin(hint) in (Union, types.UnionType):
        return frozenset().union(*map(_kinds, get_args(hint)))
    kind = get_origin(hint) or hint
    if kind is float:
        return frozenset({int, float})
    # A word of a vocabulary may also be plain text: a row of a later version may hold an unknown word.
    return frozenset({kind, str}) if issubclass(kind, StrEnum) and kind is not TaskStatus else frozenset({kind})


_KINDS = {name: _kinds(hint) for name, hint in get_type_hints(TaskRecord).items() if name not in {"damage", "logs"}}


class Shape:
    """Checks whether values have the types of these attributes of a record.

    It remembers valid combinations, because every row of a page is checked.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._kinds = [_KINDS[name] for name in names]
        self._right: set[tuple[type, ...]] = set()

    def fits(self, values: Collection[Any]) -> bool:
        """Whether each value has one of the types of its attribute."""
        found = tuple(map(type, values))
        if found in self._right:
            return True
        right = all(kind in allowed for kind, allowed in zip(found, self._kinds, strict=True))
        if right and len(self._right) < _REMEMBERED:
            self._right.add(found)
        return right


def mended(values: Mapping[str, Any], stored: Mapping[str, Any]) -> TaskRecord:
    """The record of a damaged row.

    `values` are the decoded attributes, `stored` the raw content of the others. Texts are kept; the others get a
    neutral value. `TaskRecord.damage` names the damaged attributes.
    """
    record = TaskRecord(task_id="", func_name="", status=TaskStatus.RUNNING, created_at=NO_TIME)
    damaged: dict[str, Any] = {}
    for name, kinds in _KINDS.items():
        if name in values and type(values[name]) in kinds:
            setattr(record, name, values[name])
        elif name in values or name in stored:
            damaged[name] = values.get(name, stored.get(name))
            if str in kinds and damaged[name] is not None:
                setattr(record, name, text_of(damaged[name]))
    if "status" in damaged:
        # Unfinished unless an end time says otherwise: an instance that takes it over then ends it.
        record.status = TaskStatus.RUNNING if record.end_time is None else TaskStatus.FAILED
    if not record.timeline:
        record.timeline = (TimelineEntry(Transition.ENQUEUED, record.created_at, 0, record.instance),)
    record.damage = "cannot be read: " + ", ".join(f"{name} ({repr_of(value)})" for name, value in damaged.items())
    return record


def without_surrogates(text: str, value: Any) -> Any:
    """A value decoded from JSON, with lone surrogates as escapes: JSON allows them, UTF-8 does not."""
    return encodable(value) if "\\ud" in text or "\\uD" in text else value


def read_progress(done: Any, total: Any, message: Any) -> Progress:
    """The stored progress; an earlier version stored any number."""
    text = None if message is None else text_of(message)
    return Progress(plain_number(done) or 0, None if total is None else plain_number(total), text)


def read_tags(stored: Any) -> dict[str, str]:
    """The stored tags; an earlier version stored any text. Raises `TypeError` if they are not a mapping."""
    if type(stored) is not dict:
        raise TypeError("tags are a mapping")
    return kept_tags(stored)


def read_duration(seconds: Any) -> float:
    """The stored run time; raises `ValueError` if it is not a finite number."""
    if (plain := plain_number(seconds)) is None:
        raise ValueError("a duration is a finite number")
    return plain


def read_timeline_entry(
    transition: Transition, at: datetime, attempt: Any, instance: Any, reason: Any, due_at: datetime | None = None
) -> TimelineEntry:
    """One entry of the timeline; raises `TypeError` if a part has a wrong type."""
    if type(attempt) is not int or type(instance) is not str or not (reason is None or type(reason) is str):
        raise TypeError("an entry of a timeline is five values, and a moment where the task is due")
    return TimelineEntry(transition, at, attempt, instance, reason, due_at)


def read_failure(
    attempt: Any, fingerprint: Any, error_type: Any, error: Any, frames: Any, retry_at: datetime | None
) -> AttemptFailure:
    """The failure of one attempt; raises `TypeError` if a part has a wrong type."""
    texts = (*(text for text in (fingerprint, error_type, error) if text is not None), *frames)
    if type(attempt) is not int or not all(type(text) is str for text in texts):
        raise TypeError("the failure of an attempt is a number, texts and a moment")
    return AttemptFailure(attempt, fingerprint, error_type, error, tuple(frames), retry_at)


def read_extra(stored: Any) -> dict[str, Any]:
    """The stored extra values of a log entry; an earlier version stored any values."""
    return kept_extra(stored) if type(stored) is dict else {"…": plain_value(stored)}


def read_trace(trace: TaskTrace) -> TaskTrace:
    """The trace itself; raises `TypeError` if a reference has a wrong type."""
    for ref in (trace.creation, trace.attempt, trace.previous):
        if ref is not None and tuple(map(type, (ref.trace_id, ref.span_id, ref.trace_flags, ref.tracestate))) != _SPAN:
            raise TypeError("a reference to a span is four values")
    if type(trace.baggage) is not str:
        raise TypeError("baggage is a text")
    return trace


_SPAN = (str, str, int, str)
