"""Publishes doorbells through Celery, over a connection of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from opentelemetry import context

from taskflow_otel.engine.fleet.doorbells import Ring
from taskflow_otel.exporters.otel.spans import context_of
from taskflow_otel.model.trace import SpanRef

T = TypeVar("T")

TASK = "taskflow_otel.run"
"""The name of the one Celery task: it runs the task that a message names."""
PATIENCE = 5.0
"""Seconds that one call to the broker may take, unless `broker_transport_options` say something else."""
_NOT_FOUND = "404"


class CeleryBell:
    """See `Bell`. `app`: the Celery application; `task`: its task of the name `TASK`.

    The connection belongs to the thread that rings, and is made when it is first needed: after any fork. A failure
    closes it. If it was open before, the call is made once more with a new one: the broker, or something on the way,
    may have closed it while it was idle. A message that is published twice does no harm.
    """

    def __init__(self, app: Any, task: Any) -> None:
        self._app = app
        self._task = task
        self._connection: Any = None
        self._channel: Any = None

    def ring(self, ring: Ring) -> None:
        """See `Bell`."""
        self._insist(lambda: self._publish(ring))

    def waiting(self, celery_queue: str | None) -> int:
        """See `Bell`."""
        if self._app.conf.task_always_eager:
            return 0
        options = {} if celery_queue is None else {"queue": celery_queue}
        queue = self._app.amqp.router.route(options, TASK)["queue"]
        return self._insist(lambda: self._count(getattr(queue, "name", queue)))

    def _insist(self, call: Callable[[], T]) -> T:
        fresh = self._channel is None
        try:
            return call()
        except BaseException as exc:
            self.close()
            if fresh or not isinstance(exc, Exception):
                raise
        try:
            return call()
        except BaseException:
            self.close()
            raise

    def _publish(self, ring: Ring) -> None:
        options: dict[str, Any] = {"headers": _headers(ring.created), "shadow": ring.func_name, "retry": False}
        if ring.celery_queue is not None:
            options["queue"] = ring.celery_queue
        if not self._app.conf.task_always_eager:
            options["producer"] = self._app.amqp.Producer(self._open())
        with _in_trace_of(ring.created):
            self._task.apply_async((ring.task_id,), {"queue": ring.queue}, **options)

    def _count(self, queue: str) -> int:
        channel = self._open()
        try:
            answer = channel.queue_declare(queue=queue, passive=True)
        except self._connection.channel_errors as exc:
            # A text or a number, as the transport has it.
            if str(getattr(exc, "reply_code", "")) != _NOT_FOUND:
                raise
            # The broker has closed the channel.
            self.close()
            return 0
        return int(answer.message_count)

    def close(self) -> None:
        """See `Bell`."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            # A broken connection may fail once more, which says nothing new.
            with suppress(Exception):
                connection.release()

    def _open(self) -> Any:
        if self._channel is None:
            try:
                connection = self._connection = self._app.connection_for_write()
                for option, value in _options(connection.get_transport_cls().driver_name).items():
                    connection.transport_options.setdefault(option, value)
                # Each broker once and without a pause, where `connect` waits for 2 s and `default_channel` for ever.
                hosts = max(1, len(connection.alt))
                connection.ensure_connection(max_retries=hosts - 1, interval_start=0, interval_step=0, interval_max=0)
                self._channel = connection.channel()
            except BaseException:
                self.close()
                raise
        return self._channel


def _options(driver: str) -> Mapping[str, object]:
    """What a connection needs so that no call waits for ever, and so that a message counts when the broker has it."""
    if driver == "py-amqp":
        return {"confirm_publish": True, "read_timeout": PATIENCE, "write_timeout": PATIENCE}
    return {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE} if driver == "redis" else {}


@contextmanager
def _in_trace_of(created: SpanRef) -> Iterator[None]:
    """The `send` span is current, so that instrumentations of Celery make their spans in its trace."""
    token = context.attach(context_of(created))
    try:
        yield
    finally:
        context.detach(token)


def _headers(created: SpanRef) -> dict[str, str]:
    """The trace context of the `send` span, for instrumentations of Celery. The attempt takes it from the ledger."""
    if not created.valid:
        return {}
    headers = {"traceparent": f"00-{created.trace_id}-{created.span_id}-{created.trace_flags:02x}"}
    return headers | ({"tracestate": created.tracestate} if created.tracestate else {})
