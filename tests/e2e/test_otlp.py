"""What the real OTLP exporters send of a real app: one story from the request to the last attempt, crashes included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from taskflow_otel.exporters import signals
from taskflow_otel.exporters.messaging import CONSUMED_MESSAGES, PROCESS_DURATION, SENT_MESSAGES
from tests.otlp import OtlpReceiver
from tests.procs import AppProcess
from tests.waiting import wait_until


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as running:
        yield running


@pytest.fixture
def app(receiver: OtlpReceiver, tmp_path: Path) -> Iterator[AppProcess]:
    env = {**receiver.environment, "APP_DB": str(tmp_path / "tasks.db"), "APP_RELEASE": str(tmp_path / "release")}
    with AppProcess("tests.apps.otlp_app:app", tmp_path, env=env) as process:
        yield process


def finished(app: AppProcess, task_id: str) -> bool:
    return bool(httpx.get(f"{app.url}/tasks/{task_id}").raise_for_status().json()["status"] == "success")


def test_request_send_and_both_attempts_are_one_story(app: AppProcess, receiver: OtlpReceiver) -> None:
    task_id = httpx.post(f"{app.url}/signup").raise_for_status().json()["task_id"]
    wait_until(lambda: len(receiver.named("process send_email")) == 2, "the spans of both attempts")
    wait_until(lambda: bool(receiver.named("POST /signup")), "the span of the request")

    [request] = [span for span in receiver.spans if span.kind == "SERVER" and span.name == "POST /signup"]
    [send] = receiver.named("send send_email")
    first, second = receiver.named("process send_email")

    assert (send.kind, send.trace_id) == ("PRODUCER", request.trace_id)
    # The request's own instrumentation may put spans of its parts between.
    assert receiver.ancestors(send)[-1] == request
    assert len([span for span in receiver.spans if span.kind == "SERVER" and span.trace_id == request.trace_id]) == 1
    assert (first.kind, first.parent_id, first.trace_id) == ("CONSUMER", send.span_id, request.trace_id)
    assert first.links == (send.span_id,)
    assert second.links == (send.span_id, first.span_id)
    assert (first.error, second.error) == (True, False)
    assert first.attributes["error.type"] == "ConnectionError"
    assert {span.service for span in (request, send, first, second)} == {"shop"}
    expected = {
        "messaging.system": "taskflow",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "send_email",
        "messaging.message.id": task_id,
        "taskflow.queue": "default",
        "taskflow.executor": "async",
        "taskflow.source": "manual",
        "taskflow.tag.campaign": "spring",
    }
    for attempt, span in enumerate((first, second)):
        assert span.attributes | expected == span.attributes
        assert span.attributes["taskflow.attempt"] == attempt
    assert not [span for span in receiver.spans if "ada@example.com" in str(span)], "arguments left the process"

    wait_until(lambda: "taskflow.task.succeeded" in {log.event_name for log in receiver.logs}, "the last log record")
    spans = {log.event_name: log.span_id for log in receiver.logs if log.event_name.startswith("taskflow.")}
    assert spans == {
        "taskflow.task.enqueued": send.span_id,
        "taskflow.task.started": second.span_id,
        "taskflow.task.retry_scheduled": first.span_id,
        "taskflow.task.log": second.span_id,
        "taskflow.task.succeeded": second.span_id,
    }
    [line] = [log for log in receiver.logs if log.event_name == "taskflow.task.log"]
    assert (line.body, line.trace_id, line.severity) == ("sent", second.trace_id, "INFO")


def test_a_crash_leaves_the_span_of_the_dead_attempt_and_the_next_one_links_to_it(
    app: AppProcess, receiver: OtlpReceiver, tmp_path: Path
) -> None:
    task_id = httpx.post(f"{app.url}/wait").raise_for_status().json()["task_id"]
    wait_until(lambda: bool(receiver.named("send wait_for_file")), "the send span")
    started = {"taskflow.task.started"}
    wait_until(lambda: started <= {log.event_name for log in receiver.logs}, "the start of the attempt")

    app.kill()
    (tmp_path / "release").touch()
    app.start()
    wait_until(lambda: finished(app, task_id), "the success of the recovered task")
    wait_until(lambda: len(receiver.named("process wait_for_file")) == 2, "the spans of both attempts")

    [send] = receiver.named("send wait_for_file")
    dead, recovered = receiver.named("process wait_for_file")
    assert dead.error
    assert dead.attributes["taskflow.interrupted"] is True
    assert dead.trace_id == send.trace_id
    assert send.span_id in dead.links
    assert dead.start <= dead.end <= recovered.start
    assert not recovered.error
    assert recovered.trace_id != send.trace_id, "a recovered attempt starts a trace of its own"
    assert set(recovered.links) == {send.span_id, dead.span_id}
    assert "taskflow.task.recovered" in {log.event_name for log in receiver.logs}


def test_a_receiver_that_is_gone_changes_nothing_for_the_tasks(app: AppProcess, receiver: OtlpReceiver) -> None:
    receiver.close()
    ids = [httpx.post(f"{app.url}/signup").raise_for_status().json()["task_id"] for _ in range(20)]
    wait_until(lambda: all(finished(app, task_id) for task_id in ids), "the success of every task")
    app.terminate()


def test_a_meter_provider_of_the_lifespan_gets_every_metric(receiver: OtlpReceiver, tmp_path: Path) -> None:
    env = {**receiver.environment, "APP_DB": str(tmp_path / "tasks.db")}
    everything = {signals.otel_name(spec) for spec in signals.METRICS}
    everything |= {spec.name for spec in (SENT_MESSAGES, CONSUMED_MESSAGES, PROCESS_DURATION)}
    with AppProcess("tests.apps.meter_app:app", tmp_path, env=env) as app:
        httpx.post(f"{app.url}/signup").raise_for_status()
        wait_until(lambda: everything <= receiver.metric_names, "every metric")
        app.terminate()
