"""References to spans as they are stored with a task."""

from __future__ import annotations

import pytest

from taskflow_otel.exporters.otel import spans
from taskflow_otel.model.trace import SpanRef


@pytest.mark.parametrize("ref", [SpanRef(), SpanRef("zz", "1"), SpanRef("0" * 32, "0" * 16)], ids=str)
def test_a_damaged_reference_is_no_span(ref: SpanRef) -> None:
    assert spans.restore(ref, is_remote=True) is None
