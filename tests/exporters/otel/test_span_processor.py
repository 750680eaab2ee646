"""The processor in the application's provider: it never raises, and keeps no manager alive."""

from __future__ import annotations

import gc
import weakref

import pytest
from opentelemetry.sdk.trace import TracerProvider

from taskflow_otel.exporters.otel.span_keeper import SpanKeeper
from taskflow_otel.exporters.otel.span_processor import KeepingProcessor


class Broken(SpanKeeper):
    def started(self, span: object, context: object) -> None:
        raise RuntimeError("broken at the start")

    def ended(self, span: object) -> None:
        raise RuntimeError("broken at the end")


def test_a_fault_in_it_does_not_reach_the_code_that_makes_spans(caplog: pytest.LogCaptureFixture) -> None:
    provider, keeper = TracerProvider(shutdown_on_exit=False), Broken()
    provider.add_span_processor(KeepingProcessor(keeper))
    with provider.get_tracer("test").start_as_current_span("fine"):
        pass
    assert "could not keep a span" in caplog.text
    provider.shutdown()


def test_a_provider_does_not_keep_the_keeper_alive() -> None:
    provider, keeper = TracerProvider(shutdown_on_exit=False), SpanKeeper()
    assert keeper.attach(provider)
    gone = weakref.ref(keeper)
    del keeper
    gc.collect()
    assert gone() is None
    with provider.get_tracer("test").start_as_current_span("fine"):
        pass
    provider.shutdown()
