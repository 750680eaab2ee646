"""References to spans as they are stored with a task."""

from __future__ import annotations

import pytest

from taskflow_otel.exporters.otel import spans
from taskflow_otel.model.trace import SpanRef


@pytest.mark.parametrize("ref", [SpanRef(), SpanRef("zz", "1"), SpanRef("0" * 32, "0" * 16)], ids=str)
def test_a_damaged_reference_is_no_span(ref: SpanRef) -> None:
    assert spans.restore(ref, is_remote=True) is None


def test_the_carrier_of_a_span_speaks_w3c() -> None:
    ref = SpanRef("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", 1, "a=b")
    assert spans.carrier_of(ref, "k=v") == {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "a=b",
        "baggage": "k=v",
    }
    assert spans.carrier_of(SpanRef()) == {}
