"""What is published, where, and what the broker answers."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from celery import signals
from kombu.exceptions import OperationalError
from kombu.transport.memory import Transport as MemoryTransport
from opentelemetry import trace

from taskflow_otel.celery import bell as module
from taskflow_otel.celery.bell import TASK, CeleryBell
from taskflow_otel.engine.fleet.doorbells import Ring
from taskflow_otel.model.trace import SpanRef
from tests.celery.brokers import shop

SEND = SpanRef("ab" * 16, "cd" * 8, 1, "vendor=x")


def make(**options: Any) -> tuple[Any, CeleryBell]:
    def run(task_id: str, *, queue: str) -> None: ...

    app = shop(**options)
    return app, CeleryBell(app, app.task(name=TASK, shared=False, ignore_result=True)(run))


def messages(app: Any, queue: str) -> list[Any]:
    """The messages of a queue, which are taken."""
    with app.connection_for_read() as connection:
        source = connection.SimpleQueue(app.amqp.queues[queue])
        found = [source.get(block=False) for _ in range(source.qsize())]
        for message in found:
            message.ack()
    return found


def test_a_message_has_the_id_the_queue_and_the_trace_of_the_send_span() -> None:
    app, bell = make()
    assert bell.waiting("work") == bell.waiting(None) == 0
    bell.ring(Ring("t1", "far", "send_email", "work", SEND))
    bell.ring(Ring("t2", "far", "send_email", "work", SpanRef()))
    assert (bell.waiting("work"), bell.waiting(None)) == (2, 0)
    first, second = messages(app, "work")
    assert first.payload[:2] == [["t1"], {"queue": "far"}]
    assert (first.headers["task"], first.headers["shadow"]) == (TASK, "send_email")
    assert first.headers["traceparent"] == f"00-{'ab' * 16}-{'cd' * 8}-01"
    assert first.headers["tracestate"] == "vendor=x"
    assert "traceparent" not in second.headers
    # Each message has an id of its own: to revoke one does not keep a later one from being delivered.
    assert first.headers["id"] != second.headers["id"]
    bell.close()
    bell.close()


def test_without_a_queue_of_its_own_the_routes_of_celery_decide() -> None:
    app, bell = make(task_routes={"taskflow_otel.*": {"queue": "routed"}})
    bell.ring(Ring("t1", "far", "send_email", None, SpanRef()))
    assert (bell.waiting(None), bell.waiting("other")) == (1, 0)
    assert len(messages(app, "routed")) == 1
    bell.close()


def test_a_connection_that_broke_while_it_was_idle_costs_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    app, bell = make()
    for number, call in enumerate(("basic_publish", "queue_declare"), 1):
        bell.ring(Ring("t1", "far", "send_email", "work", SpanRef()))
        monkeypatch.setattr(bell._channel, call, fail)
        bell.ring(Ring("t2", "far", "send_email", "work", SpanRef()))
        assert bell.waiting("work") == 2 * number
    # The new one fails too.
    monkeypatch.setattr(bell._channel, "basic_publish", fail)
    with monkeypatch.context() as patch:
        patch.setattr(app, "connection_for_write", fail)
        for _ in range(2):
            with pytest.raises(OSError, match="broken"):
                bell.ring(Ring("t3", "far", "send_email", "work", SpanRef()))
            with pytest.raises(OSError, match="broken"):
                bell.waiting("work")
    bell.ring(Ring("t3", "far", "send_email", "work", SpanRef()))
    assert bell.waiting("work") == 5
    bell.close()


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
def test_a_broker_that_never_answers_is_given_up(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        app = shop(broker_url=f"{scheme}://127.0.0.1:{silent.getsockname()[1]}//", broker_connection_timeout=0.05)
        bell = CeleryBell(app, app.task(name=TASK, shared=False)(lambda _: None))
        for _ in range(2):
            with pytest.raises(OperationalError, match=r"timed out|Timeout"):
                bell.ring(Ring("t1", "far", "send_email", "work", SpanRef()))
            with pytest.raises(OperationalError, match=r"timed out|Timeout"):
                bell.waiting("work")


def test_the_application_has_the_last_word_about_the_time_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    _, bell = make(broker_transport_options={"socket_timeout": 60.0})
    monkeypatch.setattr(MemoryTransport, "driver_name", "redis")
    bell.ring(Ring("t1", "far", "send_email", "work", SpanRef()))
    assert bell._connection.transport_options == {"socket_timeout": 60.0, "socket_connect_timeout": module.PATIENCE}
    bell.close()


def test_an_instrumentation_of_celery_publishes_in_the_trace_of_the_task() -> None:
    _, bell = make()
    current: list[str] = []

    def publishing(**_: object) -> None:
        current.append(format(trace.get_current_span().get_span_context().span_id, "016x"))

    signals.before_task_publish.connect(publishing)
    bell.ring(Ring("t1", "far", "send_email", "work", SEND))
    bell.ring(Ring("t2", "far", "send_email", "work", SpanRef()))
    signals.before_task_publish.disconnect(publishing)
    assert current == [SEND.span_id, "0" * 16]
    assert not trace.get_current_span().get_span_context().is_valid
    bell.close()


def fail(*_: object, **__: object) -> Any:
    raise OSError("broken")
