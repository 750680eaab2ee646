"""The spans of an attempt as they are kept with its outcome, and their stored form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct, field

from taskflow_otel.model.plain import plain_text
from taskflow_otel.model.vocabulary import BarKind

MAX_SPANS = 200
"""Spans kept of one attempt; of more, those that failed and the longest ones."""
MAX_NAME = 200
"""Characters kept of the name of a span and of what a span says about its error."""
MAX_VALUE = 256
"""Characters kept of the value of an attribute."""

Value = str | int | float | bool


class KeptSpan(Struct, frozen=True, gc=False, array_like=True):
    """One span. Times are microseconds since 1970."""

    span_id: str
    parent_id: str
    """Empty without a parent."""
    name: str
    kind: str
    """One of `BarKind`."""
    start: int
    end: int | None
    """`None`: it had not ended when the attempt did."""
    failed: bool = False
    error: str | None = None
    attributes: dict[str, Value] = field(default_factory=dict)


class AttemptSpans(Struct, frozen=True, gc=False, array_like=True):
    """What is kept of one attempt beside what the ledger knows of it anyway: its own span is not part of this."""

    trace_id: str
    span_id: str
    """The span of the attempt."""
    around: tuple[KeptSpan, ...] = ()
    """The request that added the task, the span that was current in it, and the `send` span."""
    inside: tuple[KeptSpan, ...] = ()
    """What the function did."""
    dropped: int = 0
    """How many spans inside it were not kept."""


class KeptTrace(NamedTuple):
    """What is kept of the spans of a task."""

    spans: Mapping[int, AttemptSpans]
    """Those of each attempt."""
    unreadable: int = 0
    """Of how many attempts they cannot be read: no key of this process fits, or the row is damaged."""


SpanRow = list[Any]
"""One span as OpenTelemetry has it: end, id, id of the parent, name, kind, start, status, what it says about its error,
attributes. Times are nanoseconds since 1970; kind and status are the numbers of its API."""


class _Row(Struct, array_like=True):
    end: int | float | None
    span_id: int
    parent_id: int | None
    name: str
    kind: int
    start: int | float
    status: int
    error: str | None
    attributes: dict[str, Value]


class _Stored(Struct, array_like=True):
    form: int
    trace_id: str
    span_id: str
    around: list[_Row]
    inside: list[_Row]
    dropped: int


_KINDS = (BarKind.INTERNAL, BarKind.SERVER, BarKind.CLIENT, BarKind.PRODUCER, BarKind.CONSUMER)
"""By their numbers in the API of OpenTelemetry."""
_NUMBERS = {kind.value: number for number, kind in enumerate(_KINDS)}
_ERROR = 2
_FORM = 2
_PREFIX = f"[{_FORM},"
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Stored).decode
_decode_first = msgspec.json.Decoder(AttemptSpans).decode


def dump_rows(trace_id: str, span_id: str, around: Sequence[SpanRow], inside: Sequence[SpanRow], dropped: int) -> str:
    """The stored form of `AttemptSpans`, from rows: it takes much less than to make these first.

    Raises `TypeError` and `ValueError` for what has no form as JSON.
    """
    return _encode((_FORM, trace_id, span_id, around, inside, dropped)).decode()


def dump_spans(spans: AttemptSpans) -> str:
    """The stored form."""
    around, inside = ([_row_of(span) for span in some] for some in (spans.around, spans.inside))
    return dump_rows(spans.trace_id, spans.span_id, around, inside, spans.dropped)


def _row_of(span: KeptSpan) -> SpanRow:
    return [
        None if span.end is None else span.end * 1_000,
        int(span.span_id, 16),
        int(span.parent_id, 16) if span.parent_id else None,
        span.name,
        _NUMBERS[span.kind],
        span.start * 1_000,
        _ERROR if span.failed else 0,
        span.error,
        span.attributes,
    ]


def load_spans(text: str) -> AttemptSpans:
    """The spans of a stored text; raises `ValueError` if it is damaged."""
    if not text.startswith(_PREFIX):
        # The first form was that of the objects.
        return _decode_first(text)
    stored = _decode(text)
    around, inside = (tuple([_span_of(row) for row in rows]) for rows in (stored.around, stored.inside))
    return AttemptSpans(stored.trace_id, stored.span_id, around, inside, stored.dropped)


def _span_of(row: _Row) -> KeptSpan:
    failed = row.status == _ERROR
    return KeptSpan(
        f"{row.span_id:016x}",
        "" if row.parent_id is None else f"{row.parent_id:016x}",
        row.name,
        _KINDS[row.kind].value if 0 <= row.kind < len(_KINDS) else BarKind.INTERNAL.value,
        int(row.start // 1_000),
        None if row.end is None else int(row.end // 1_000),
        failed,
        row.error if failed else None,
        row.attributes,
    )


def kept_value(value: object, limit: int = MAX_VALUE) -> Value | None:
    """The value of an attribute as it is kept: numbers, and the beginning of texts; `None` for everything else."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return plain_text(str(value), limit)
    if isinstance(value, int):
        return int(value) if value.bit_length() < 54 else plain_text(f"{value:x}", limit)
    if isinstance(value, float):
        return float(value) if value - value == 0 else str(value)
    return None
