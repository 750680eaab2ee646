"""References to spans as they are stored with a task."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry import trace
from opentelemetry.context import get_value
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from taskflow_otel.exporters.otel import spans
from taskflow_otel.model.trace import SpanRef


@pytest.mark.parametrize("ref", [SpanRef(), SpanRef("zz", "1"), SpanRef("0" * 32, "0" * 16)], ids=str)
def test_a_damaged_reference_is_no_span(ref: SpanRef) -> None:
    assert spans.restore(ref, is_remote=True) is None


def _identity(number: int) -> SpanContext:
    return SpanContext(number, number, is_remote=False, trace_flags=TraceFlags(1))


def test_a_span_has_one_context_until_some_spans_after_it_have_ended() -> None:
    contexts, refs = spans.SpanContexts(), [SpanRef() for _ in range(40)]
    made = [contexts.add(_identity(place + 1), ref) for place, ref in enumerate(refs)]
    assert all(contexts.of(ref) is context for ref, context in zip(refs, made, strict=True))
    for ref in refs:
        contexts.ended(ref)
    assert contexts.of(refs[-1]) is made[-1]
    # An earlier one is made anew for a late signal, and says the same.
    assert contexts.of(refs[0]) is not made[0]
    for ref in refs:
        assert trace.get_current_span(contexts.of(ref)).get_span_context() == _identity(refs.index(ref) + 1)


def test_of_many_spans_that_never_end_the_oldest_make_room() -> None:
    contexts, refs = spans.SpanContexts(size=2), [SpanRef() for _ in range(3)]
    made = [contexts.add(_identity(place + 1), ref) for place, ref in enumerate(refs)]
    assert [contexts.of(ref) is context for ref, context in zip(refs, made, strict=True)] == [False, True, True]


def test_a_context_with_a_span_keeps_what_is_around_it() -> None:
    span = NonRecordingSpan(_identity(7))
    context = spans.context_with(span, {"colour": "blue"})
    assert trace.get_current_span(context) is span
    assert get_value("colour", context) == "blue"


def test_each_moment_has_its_own_nanoseconds_in_any_order() -> None:
    first = datetime(2026, 1, 1, 12, 0, 0, 123_457, UTC)
    moments = [first, first + timedelta(microseconds=1), first, datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)]
    expected = [(moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1_000 for moment in moments]
    assert [spans.nanoseconds(moment) for moment in moments] == expected


@pytest.mark.parametrize("trace_id", [1, 0xAB << 60, 2**128 - 1])
@pytest.mark.parametrize("span_id", [1, 0xCD << 30, 2**64 - 1])
def test_the_identity_of_a_span_is_written_with_all_its_digits(trace_id: int, span_id: int) -> None:
    ref, identity = SpanRef(), SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(3))
    spans.store(identity, ref)
    assert ref == SpanRef(trace.format_trace_id(trace_id), trace.format_span_id(span_id), 3)
    assert spans.restore(ref, is_remote=False) == identity


def test_an_invalid_identity_leaves_a_reference_empty() -> None:
    ref = SpanRef()
    spans.store(SpanContext(2**128, 1, is_remote=False), ref)
    assert ref == SpanRef()
