"""The trace of a task over HTTP."""

from __future__ import annotations

from datetime import timedelta

import httpx

from taskflow_otel.backends.base import AppendSpans
from taskflow_otel.model.spans import AttemptSpans, KeptSpan, dump_spans
from taskflow_otel.model.status import TaskStatus
from tests.web.house import House, make_record


async def test_a_trace_is_in_the_order_of_a_waterfall_with_seconds_from_its_start(
    client: httpx.AsyncClient, engine: House
) -> None:
    record = engine.put(make_record(wait=0.5, duration=2.0))
    start = round(record.created_at.timestamp() * 1e6)
    spans = AttemptSpans(
        "a" * 32,
        "c" * 16,
        (KeptSpan("d" * 16, "", "GET /", "server", start - 1_000_000, start + 100_000),),
        (KeptSpan("e" * 16, "c" * 16, "SELECT", "client", start + 750_000, None, True, "gone", {"db.system": "x"}),),
        3,
    )
    await engine.backend.apply([AppendSpans(record.task_id, record.instance, record.token, 0, dump_spans(spans))])
    answer = await client.get(f"/tasks/{record.task_id}/trace")
    assert answer.status_code == 200
    found = answer.json()
    assert (found["task_id"], found["trace_id"], found["sampled"]) == (record.task_id, "a" * 32, True)
    assert (found["duration"], found["dropped"], found["unreadable"]) == (3.5, 3, 0)
    bars = [
        (bar["name"], bar["kind"], bar["depth"], bar["attempt"], bar["offset"], bar["duration"])
        for bar in found["bars"]
    ]
    assert bars == [
        ("GET /", "server", 0, None, 0.0, 1.1),
        ("send send_email", "producer", 1, None, 1.0, 0.0),
        ("waiting", "wait", 2, 0, 1.0, 0.5),
        ("process send_email", "attempt", 2, 0, 1.5, 2.0),
        ("SELECT", "client", 3, 0, 1.75, None),
    ]
    last = found["bars"][-1]
    assert (last["failed"], last["error"], last["attributes"]) == (True, "gone", {"db.system": "x"})


async def test_a_trace_without_tracing_is_what_the_ledger_knows(client: httpx.AsyncClient, engine: House) -> None:
    record = engine.put(make_record(status=TaskStatus.PENDING, age=60))
    await engine.backend.apply([AppendSpans(record.task_id, record.instance, record.token, 0, "damaged")])
    found = (await client.get(f"/tasks/{record.task_id}/trace")).json()
    assert [bar["kind"] for bar in found["bars"]] == ["producer", "wait"]
    assert (found["trace_id"], found["sampled"], found["unreadable"]) == (None, None, 1)
    # It lasts until now.
    assert found["duration"] > timedelta(seconds=50).total_seconds()
    assert (await client.get("/tasks/unknown/trace")).status_code == 404
