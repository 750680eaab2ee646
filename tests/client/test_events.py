"""The live stream, parsed from bytes that are cut anywhere."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow_otel.client.events import Event, EventParser

STREAM = (
    b"retry: 2000\n\nid: a-1\nevent: begin\ndata: {}\n\n: heartbeat\n\n"
    b'id: a-2\nevent: task\ndata: {"error":"\xe2\x80\xa8 \xc2\x85"}\n\nid: a-3\nevent: log\ndata: {"n":\ndata: 1}\n\n'
)
EVENTS = [
    Event("begin", {}, "a-1"),
    Event("task", {"error": "\u2028 \x85"}, "a-2"),
    Event("log", {"n": 1}, "a-3"),
]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@given(cuts=st.lists(st.integers(0, len(STREAM))))
def test_the_events_are_the_same_however_the_bytes_are_cut_and_lines_end(end: bytes, cuts: list[int]) -> None:
    parser, found, stream = EventParser(), [], STREAM.replace(b"\n", end)
    edges = [0, *sorted(cuts), len(stream)]
    for start, stop in pairwise(edges):
        found += parser.feed(stream[start:stop])
    assert found == EVENTS
    assert (parser.last_id, parser.retry) == ("a-3", 2.0)


def test_an_event_that_was_cut_off_is_forgotten_and_the_stream_continues_after_the_one_before() -> None:
    parser = EventParser("a-0")
    assert parser.feed(b'id: a-1\nevent: task\ndata: {"x"') == []
    assert parser.last_id == "a-0"
    parser.reconnect()
    assert parser.feed(b"event: reset\ndata: {}\n\n") == [Event("reset", {}, "a-0")]
