"""The trace of a task as bars: what the ledger knows of it, with the spans that were kept of its attempts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

from msgspec import Struct, field
from msgspec.structs import replace

from taskflow_otel.model.record import TaskRecord, TimelineEntry
from taskflow_otel.model.spans import AttemptSpans, KeptSpan, Value
from taskflow_otel.model.status import Transition
from taskflow_otel.model.vocabulary import BarKind, Reason

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_GONE_WELL = frozenset({Transition.SUCCEEDED, Transition.CANCELLED})
_DEEPEST = 64
"""How deep bars are nested; deeper spans stay on this level."""


class Bar(Struct, frozen=True):
    """One bar. `end` is `None` while it lasts, and for a span that had not ended when its attempt did."""

    name: str
    kind: str
    start: datetime
    end: datetime | None
    depth: int = 0
    attempt: int | None = None
    """The zero-based attempt that it belongs to; `None` for what came before the first one."""
    span_id: str | None = None
    failed: bool = False
    error: str | None = None
    attributes: Mapping[str, Value] = field(default_factory=dict)


def waterfall(record: TaskRecord, kept: Mapping[int, AttemptSpans]) -> list[Bar]:
    """The bars of a task, each before those inside it, in order of time.

    Without kept spans: when it was enqueued, its waits and its attempts, from its timeline.
    """
    lines = [line for line in record.timeline if line.transition is not Transition.OBJECTIVE_MISSED]
    creation = record.trace.creation.span_id
    known = next((spans.around for _, spans in sorted(kept.items()) if spans.around), ())
    around = [_bar(span, None) for span in known if span.span_id != creation]
    bars = [replace(bar, depth=depth) for depth, bar in enumerate(sorted(around, key=lambda bar: bar.start))]
    depth = len(bars)
    bars.append(_send(record, known, depth))
    for line, following in zip(lines, [*lines[1:], None], strict=True):
        own = _own(record, line, following, kept, depth + 1)
        if own is None:
            continue
        bars.append(own)
        if own.kind == BarKind.ATTEMPT and (spans := kept.get(line.attempt)) is not None:
            bars += _inside(spans, line.attempt, depth + 2)
    return bars


def _send(record: TaskRecord, around: Iterable[KeptSpan], depth: int) -> Bar:
    creation = record.trace.creation.span_id
    ended = next((span.end for span in around if span.span_id == creation), None)
    # Without a span of it, only its beginning is known.
    end = record.created_at if ended is None else max(record.created_at, moment_of(ended))
    name = f"send {record.func_name}"
    return Bar(name, BarKind.PRODUCER.value, record.created_at, end, depth, span_id=creation or None)


def _own(
    record: TaskRecord,
    line: TimelineEntry,
    following: TimelineEntry | None,
    kept: Mapping[int, AttemptSpans],
    depth: int,
) -> Bar | None:
    """The wait or the attempt that begins with a line of the timeline."""
    if following is None and record.status.finished:
        return None
    end = None if following is None else following.timestamp
    if line.transition is not Transition.STARTED:
        # A wait belongs to the attempt that it is for.
        attempt = None if following is None else following.attempt
        return Bar(_wait_of(line), BarKind.WAIT.value, line.timestamp, end, depth, attempt)
    spans = kept.get(line.attempt)
    ref = record.trace.attempt if line.attempt == record.attempt else None
    span_id = spans.span_id if spans is not None else None if ref is None else ref.span_id
    failed = following is not None and following.transition not in _GONE_WELL
    failure = next((one for one in reversed(record.failures) if one.attempt == line.attempt), None)
    error: str | None = None
    if failed and following is not None:
        said = None if failure is None else failure.error
        kind = None if failure is None else failure.error_type
        error = ": ".join(part for part in (kind, said) if part) or following.reason
    name = f"process {record.func_name}"
    attributes: dict[str, Value] = {"taskflow.instance": line.instance}
    return Bar(
        name,
        BarKind.ATTEMPT.value,
        line.timestamp,
        end,
        depth,
        line.attempt,
        span_id or None,
        failed,
        error,
        attributes,
    )


def _wait_of(line: TimelineEntry) -> str:
    if line.transition is Transition.RETRY_SCHEDULED:
        return "backoff"
    return Reason.DELAYED.value if line.reason == Reason.DELAYED else "waiting"


def _inside(spans: AttemptSpans, attempt: int, depth: int) -> Iterator[Bar]:
    """The spans of an attempt as a tree. One whose parent was not kept is directly below the attempt."""
    known = {span.span_id for span in spans.inside}
    below: dict[str, list[KeptSpan]] = {}
    for span in sorted(spans.inside, key=lambda span: span.start):
        below.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)
    left = [(span, depth) for span in reversed(below.pop("", []))]
    while left:
        span, level = left.pop()
        yield replace(_bar(span, attempt), depth=min(level, _DEEPEST))
        left += [(child, level + 1) for child in reversed(below.pop(span.span_id, []))]
    # Spans that name each other as their parents, in a damaged row.
    yield from (replace(_bar(span, attempt), depth=depth) for some in below.values() for span in some)


def _bar(span: KeptSpan, attempt: int | None) -> Bar:
    start = moment_of(span.start)
    end = None if span.end is None else max(start, moment_of(span.end))
    return Bar(
        span.name, span.kind, start, end, 0, attempt, span.span_id or None, span.failed, span.error, span.attributes
    )


def moment_of(micros: int) -> datetime:
    """Microseconds since 1970 as a time; a number beyond the calendar becomes its nearest end."""
    try:
        return _EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC) if micros > 0 else datetime.min.replace(tzinfo=UTC)
