"""The stored form of spans, and what is kept of an attribute."""

from __future__ import annotations

import math
from typing import Any

import pytest

from taskflow_otel.model.spans import AttemptSpans, KeptSpan, dump_spans, kept_value, load_spans

SPAN = KeptSpan("b" * 16, "a" * 16, 'SELECT "x"\n\x00', "client", 5, None, True, "gone", {"n": 1, "f": 1.5, "b": True})


def test_spans_come_back_as_they_were_stored() -> None:
    kept = AttemptSpans("t" * 32, "s" * 16, (SPAN,), (SPAN, SPAN), 7)
    assert load_spans(dump_spans(kept)) == kept


def test_fields_of_a_later_version_are_left_out_and_missing_ones_have_their_defaults() -> None:
    assert load_spans('["t","s",[],[["b","a","x","client",1,2,false,null,{},"new"]],0,"new"]').inside[0].end == 2
    assert load_spans('["t","s"]') == AttemptSpans("t", "s")


@pytest.mark.parametrize("text", ["", "{}", '["t"]', '["t","s",[["b"]]]', '["t","s",5]'])
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
