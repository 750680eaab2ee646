"""The stored form of spans, and what is kept of an attribute."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from opentelemetry.trace import SpanKind, StatusCode

from taskflow_otel.model.spans import AttemptSpans, KeptSpan, SpanRow, dump_rows, dump_spans, kept_value, load_spans

SPAN = KeptSpan("b" * 16, "a" * 16, 'SELECT "x"\n\x00', "client", 5, None, True, "gone", {"n": 1, "f": 1.5, "b": True})


def test_spans_come_back_as_they_were_stored() -> None:
    kept = AttemptSpans("t" * 32, "s" * 16, (SPAN,), (SPAN, SPAN), 7)
    assert load_spans(dump_spans(kept)) == kept
    # The first form, of which there are rows.
    assert load_spans(msgspec.json.encode(kept).decode()) == kept


def test_fields_of_a_later_version_are_left_out_and_missing_ones_have_their_defaults() -> None:
    assert load_spans('["t","s",[],[["b","a","x","client",1,2,false,null,{},"new"]],0,"new"]').inside[0].end == 2
    assert load_spans('["t","s"]') == AttemptSpans("t", "s")


def test_rows_are_read_as_spans_whatever_the_sdk_took_for_a_time() -> None:
    attributes: dict[str, Any] = {"n": 1, "f": 1.5, "b": True, "s": "x"}
    rows: list[SpanRow] = [
        [2_000_999, 2**64 - 1, 1, "a", SpanKind.CLIENT, 1_000_000, StatusCode.ERROR, "gone", attributes],
        [None, 2, None, "b", SpanKind.INTERNAL, 1.5e15, StatusCode.OK, "ignored", {}],
    ]
    spans = load_spans(dump_rows("t" * 32, "s" * 16, rows[:1], rows, 7))
    first = KeptSpan("f" * 16, f"{1:016x}", "a", "client", 1_000, 2_000, True, "gone", attributes)
    second = KeptSpan(f"{2:016x}", "", "b", "internal", 1_500_000_000_000, None)
    assert spans == AttemptSpans("t" * 32, "s" * 16, (first,), (first, second), 7)


def test_each_kind_of_a_span_has_its_word() -> None:
    rows: list[SpanRow] = [[1, 1, 1, "a", kind, 1, 0, None, {}] for kind in (*SpanKind, 99)]
    found = [span.kind for span in load_spans(dump_rows("t", "s", [], rows, 0)).inside]
    assert found == [*(kind.name.lower() for kind in SpanKind), "internal"]


DAMAGED = ["", "{}", '["t"]', '["t","s",[["b"]]]', '["t","s",5]', "[2,", '[2,"t","s",[],[[1]],0]', '[2,"t","s",[],5,0]']


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_text_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        load_spans(text)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (True, True),
        (7, 7),
        (2**60, "1000000000000000"),
        (0.5, 0.5),
        (math.inf, "inf"),
        (math.nan, "nan"),
        ("x\udc80\x00", "x\\udc80\\x00"),
        ("x" * 300, "x" * 256 + "… [44 characters cut]"),
        (["a"], None),
        (b"raw", None),
    ],
)
def test_a_value_is_kept_as_plain_data(value: Any, kept: Any) -> None:
    assert kept_value(value) == kept
    assert type(kept_value(value)) is type(kept)
