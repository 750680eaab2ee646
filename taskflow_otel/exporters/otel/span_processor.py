"""The processor that passes an application's spans to the `SpanKeeper`: what of it needs the SDK."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, SpanProcessor

from taskflow_otel.runtime.throttled_report import ThrottledReport

if TYPE_CHECKING:
    from taskflow_otel.exporters.otel.span_keeper import SpanKeeper


class KeepingProcessor(SpanProcessor):
    """Passes each span on when it starts. It never raises: user code starts the spans.

    A provider keeps its processors for ever, so this one does not keep the keeper alive.
    """

    def __init__(self, keeper: SpanKeeper) -> None:
        self._keeper = weakref.ref(keeper)
        self._failures = ThrottledReport()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """A span was started."""
        try:
            if (keeper := self._keeper()) is not None:
                keeper.started(span, parent_context)
        except Exception as exc:
            self._failures.add("kept_spans", "could not keep a span", exc)
