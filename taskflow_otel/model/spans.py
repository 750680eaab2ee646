"""The spans of an attempt as they are kept with its outcome, and their stored form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from msgspec import Struct, field

from taskflow_otel.model.plain import plain_text

MAX_SPANS = 200
"""Spans kept of one attempt; of more, those that failed and the longest ones."""
MAX_NAME = 200
"""Characters kept of the name of a span, of an attribute's name and of what a span says about its error."""

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


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(AttemptSpans).decode


def dump_spans(spans: AttemptSpans) -> str:
    """The stored form."""
    return _encode(spans).decode()


def load_spans(text: str) -> AttemptSpans:
    """The spans of a stored text; raises `ValueError` if it is damaged."""
    return _decode(text)


def kept_value(value: object, limit: int = 256) -> Value | None:
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
