"""The spans of each attempt, caught in the application's provider: which, how many, and when they are let go."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracerProvider, Span, SpanKind, Status, StatusCode

from taskflow_otel.bus import ObserverBus
from taskflow_otel.exporters.otel import span_keeper
from taskflow_otel.exporters.otel.span_keeper import SpanKeeper
from taskflow_otel.exporters.otel.tracing import TracingExporter
from taskflow_otel.model.spans import AttemptSpans, load_spans
from taskflow_otel.model.status import Transition
from tests.exporters.story import START, Story

ROOT = Path(__file__).parents[3]


class Kept:
    """A bus with tracing and a keeper, over a provider of the SDK."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self.provider = provider or TracerProvider(shutdown_on_exit=False)
        self.keeper = SpanKeeper(["own.word"])
        tracing = TracingExporter(self.provider, keeper=self.keeper)
        self.bus = ObserverBus([tracing, self.keeper])
        tracing.start()
        self.tracer = self.provider.get_tracer("test")

    def running(self) -> Story:
        return Story(self.bus).created().enqueued().started()

    def start(self, story: Story, name: str) -> Span:
        """A span inside the attempt."""
        return story.inside(lambda: self.tracer.start_span(name))

    def make(self, story: Story, *names: str) -> None:
        """Spans inside the attempt that have ended."""
        for name in names:
            self.start(story, name).end()

    def ending(self, story: Story) -> AttemptSpans | None:
        stored = self.bus.ending(story.record)
        return None if stored is None else load_spans(stored)


@pytest.fixture
def kept() -> Iterator[Kept]:
    made = Kept()
    yield made
    made.provider.shutdown()


def names(spans: AttemptSpans | None) -> list[str]:
    assert spans is not None
    return sorted(span.name for span in spans.inside)


def test_the_spans_inside_an_attempt_are_kept_with_what_was_around_it(kept: Kept) -> None:
    start = kept.tracer.start_as_current_span
    with start("GET /", kind=SpanKind.SERVER) as request, start("route") as route:
        story = Story(kept.bus).created()
    story.enqueued().started()

    def function() -> None:
        attributes = {"own.word": "x", "secret": "y"}
        with start("charge", attributes=attributes), start("SELECT", kind=SpanKind.CLIENT) as query:
            query.set_status(Status(StatusCode.ERROR, "deadlock"))

    story.inside(function)
    left = kept.start(story, "never ends")
    spans = kept.ending(story)
    assert names(spans) == ["SELECT", "charge", "never ends"]
    assert spans is not None
    assert [span.name for span in spans.around] == ["GET /", "route", "send send_email"]
    by_name = {span.name: span for span in (*spans.around, *spans.inside)}
    assert by_name["GET /"].kind == "server"
    assert by_name["route"].span_id == f"{route.get_span_context().span_id:016x}"
    assert by_name["route"].parent_id == f"{request.get_span_context().span_id:016x}"
    assert by_name["SELECT"].parent_id == by_name["charge"].span_id
    assert by_name["charge"].parent_id == spans.span_id == story.record.span_id
    assert (by_name["SELECT"].failed, by_name["SELECT"].error) == (True, "deadlock")
    assert by_name["charge"].attributes == {"own.word": "x"}
    assert by_name["never ends"].end is None
    left.end()
    assert kept.ending(story) is None


def test_nothing_is_stored_of_an_attempt_without_spans_of_its_own(kept: Kept) -> None:
    with kept.tracer.start_as_current_span("of someone else"):
        pass
    assert kept.ending(kept.running()) is None


def test_each_attempt_has_its_own_spans_and_what_comes_after_the_outcome_is_no_part_of_it(kept: Kept) -> None:
    story = kept.running()
    first = story.inside(otel_context.get_current)
    kept.make(story, "first")
    assert names(kept.ending(story)) == ["first"]
    story.retried()
    kept.tracer.start_span("after the outcome", first).end()
    story.started()
    kept.tracer.start_span("of the attempt before", first).end()
    kept.make(story, "second")
    assert names(kept.ending(story)) == ["second"]


def test_a_thread_that_knows_only_the_parent_is_part_of_the_attempt(kept: Kept) -> None:
    story = kept.running()
    parent, root = kept.start(story, "parent"), story.inside(trace.get_current_span)

    def start_below(span: Span, name: str) -> None:
        kept.tracer.start_span(name, trace.set_span_in_context(span, Context())).end()

    for span, name in ((parent, "in a thread"), (root, "below the attempt")):
        thread = threading.Thread(target=start_below, args=(span, name))
        thread.start()
        thread.join()
    assert names(kept.ending(story)) == ["below the attempt", "in a thread", "parent"]


def test_of_many_spans_those_that_failed_and_the_longest_are_kept_and_the_rest_is_counted(kept: Kept) -> None:
    story = kept.running()
    base = int(START.timestamp()) * 10**9
    inside = story.inside(otel_context.get_current)
    for number in range(1_000):
        span = kept.tracer.start_span(f"{number}", inside, start_time=base)
        if number == 3:
            span.set_status(StatusCode.ERROR)
        span.end(base + (number + 1) * 1_000)
    spans = kept.ending(story)
    assert spans is not None
    assert {span.name for span in spans.inside} == {"3", *(f"{number}" for number in range(801, 1_000))}
    assert (spans.dropped, kept.keeper.dropped()) == (800, 800)


def test_spans_that_do_not_end_are_bounded_too(kept: Kept) -> None:
    story = kept.running()
    left = [kept.start(story, f"{number}") for number in range(1_500)]
    spans = kept.ending(story)
    assert spans is not None
    assert (len(spans.inside), spans.dropped) == (50, 1_450)
    assert kept.keeper.dropped() == 1_450
    for span in left:
        span.end()


def test_all_attempts_together_are_bounded_and_make_room_when_they_end(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(span_keeper, "MOST_AT_ONCE", 5)
    one, other = kept.running(), kept.running()
    kept.make(one, "1", "2", "3", "4")
    kept.make(other, "5", "6", "7", "8")
    found = kept.ending(other)
    assert found is not None
    assert (names(found), found.dropped, kept.keeper.dropped()) == (["5"], 3, 3)
    assert len(names(kept.ending(one))) == 4
    last = kept.running()
    kept.make(last, "1", "2", "3", "4", "5")
    assert len(names(kept.ending(last))) == 5


@pytest.mark.parametrize("way", ["refused", "given", "cancelled"])
def test_an_attempt_that_is_no_longer_this_processs_is_let_go(kept: Kept, way: str) -> None:
    with kept.tracer.start_as_current_span("request"):
        story = Story(kept.bus).created()
    story.enqueued().started()
    kept.make(story, "lost")
    if way == "refused":
        kept.bus.refused(story.record)
    elif way == "given":
        kept.bus.given(story.record)
    else:
        story.tell(Transition.CANCELLED)
    assert kept.ending(story) is None


def test_a_task_added_inside_an_attempt_is_a_span_of_it_and_has_that_attempt_around_it(kept: Kept) -> None:
    outer, inner = kept.running(), Story(kept.bus)
    outer.inside(inner.created)
    inner.enqueued().started()
    assert names(kept.ending(outer)) == ["send send_email"]
    spans = kept.ending(inner)
    assert spans is not None
    assert [span.name for span in spans.around] == ["process send_email", "send send_email"]


def test_spans_that_are_not_sampled_are_not_kept() -> None:
    off = Kept(TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False))
    with off.tracer.start_as_current_span("request", kind=SpanKind.SERVER):
        story = Story(off.bus).created()
    story.enqueued().started()
    off.make(story, "inside")
    assert off.ending(story) is None


def test_what_the_sdk_takes_for_a_name_a_kind_or_a_time_spoils_no_other_span(kept: Kept) -> None:
    story = kept.running()
    inside = story.inside(otel_context.get_current)
    name: Any = ["no", "text"]
    kept.tracer.start_span(name, inside, kind=None, start_time=1.5e15).end(2.5e15)  # type: ignore[arg-type]
    kept.tracer.start_span("x\udc80\x00" + "x" * 300, inside).end()
    kept.make(story, "fine")
    spans = kept.ending(story)
    assert spans is not None
    odd, long, fine = spans.inside
    assert (odd.name, odd.kind, odd.start, odd.end) == (
        "['no', 'text']",
        "internal",
        1_500_000_000_000,
        2_500_000_000_000,
    )
    assert long.name.startswith("x\\udc80\\x00xxx")
    assert long.name.endswith("characters cut]")
    assert fine.name == "fine"


def test_an_attempt_that_runs_holds_few_spans_that_have_ended(kept: Kept) -> None:
    story = kept.running()
    alive: list[weakref.ref[Span]] = []
    outer = kept.start(story, "outer")
    for number in range(100):
        span = kept.start(story, f"{number}")
        span.record_exception(ValueError("with a stack trace"))
        span.end()
        alive.append(weakref.ref(span))
    del span
    gc.collect()
    assert sum(one() is not None for one in alive) < 12
    outer.end()
    assert len(names(kept.ending(story))) == 101
    gc.collect()
    assert not any(one() for one in alive)


def test_a_span_that_starts_as_its_attempt_ends_leaves_nothing_behind(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread has read that the attempt runs, and adds its span after the end."""
    story = kept.running()
    attempt = next(iter(kept.keeper._attempts.values()))

    class Late(list[Any]):
        def append(self, span: object) -> None:
            monkeypatch.undo()
            assert kept.ending(story) is None
            super().append(span)

    monkeypatch.setattr(attempt, "live", Late())
    kept.make(story, "late")
    assert (kept.keeper._by_span, kept.keeper._kept) == ({}, 0)
    monkeypatch.setattr(span_keeper, "MOST_AT_ONCE", 1)
    again = kept.running()
    kept.make(again, "has room")
    assert names(kept.ending(again)) == ["has room"]


def test_a_request_that_has_ended_is_around_no_task_and_is_held_by_nothing(kept: Kept) -> None:
    request = kept.tracer.start_span("GET /", kind=SpanKind.SERVER)
    within = trace.set_span_in_context(request)
    route = kept.tracer.start_span("route", within)
    request.end()
    gone = weakref.ref(request)
    token = otel_context.attach(trace.set_span_in_context(route))
    story = Story(kept.bus).created()
    otel_context.detach(token)
    story.enqueued().started()
    spans = kept.ending(story)
    assert spans is not None
    assert [span.name for span in spans.around] == ["route", "send send_email"]
    del request, within
    gc.collect()
    assert gone() is None


class Vendor(trace.TracerProvider):
    """A provider that tells of no spans."""

    def get_tracer(self, *args: object, **kwargs: object) -> trace.Tracer:
        return NoOpTracerProvider().get_tracer("vendor")


def test_a_provider_without_processors_leaves_the_keeper_idle() -> None:
    keeper = SpanKeeper()
    bus = ObserverBus([TracingExporter(Vendor(), keeper=keeper), keeper])
    story = Story(bus).created().enqueued().started()
    assert bus.ending(story.record) is None
    assert keeper.idle_until(START + timedelta(days=1)) is not None


def test_a_manager_that_stopped_keeps_nothing_and_starts_again(kept: Kept) -> None:
    story = kept.running()
    kept.make(story, "before")
    kept.keeper.close()
    kept.make(story, "while closed")
    assert kept.ending(story) is None
    kept.keeper.start()
    again = kept.running()
    kept.make(again, "after")
    assert names(kept.ending(again)) == ["after"]


def test_a_forked_child_begins_anew() -> None:
    script = """
    import os
    from opentelemetry.sdk.trace import TracerProvider
    from taskflow_otel.exporters.otel.span_keeper import SpanKeeper
    provider, keeper, gone = TracerProvider(), SpanKeeper(), SpanKeeper()
    keeper.attach(provider)
    tracer = provider.get_tracer("test")
    span = tracer.start_span("attempt")
    keeper.begin("task", span.get_span_context())
    del gone
    keeper._lock.acquire()  # as a thread may hold it that the child does not have
    child = os.fork()
    if child == 0:
        tracer.start_span("in the child").end()
        os._exit(0 if keeper._attempts == {} else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(keeper._attempts) == ["task"]
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
