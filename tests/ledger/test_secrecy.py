"""With a key, arguments are ciphertext everywhere outside the running attempt."""

from __future__ import annotations

import base64
import dataclasses
import json
import logging
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.fernet import Fernet
from fastapi import FastAPI
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from taskflow_otel import TaskAdmin, TaskManager, TaskStatus, Telemetry
from taskflow_otel.errors import TaskArgumentError
from taskflow_otel.testing.clock import FakeClock
from tests.asgi import get
from tests.ledger.dump import dump
from tests.ledger.fleet import LONG_AGO, Fleet
from tests.managers import finish

KEY = Fernet.generate_key()


@dataclasses.dataclass
class Card:
    holder: str
    number: Decimal
    ident: UUID
    scan: bytes
    when: datetime


class Secret:
    """A card that no other test has seen, and what is seen of it in a payload that is not encrypted."""

    def __init__(self) -> None:
        ident = uuid4()
        number = f"{ident.int % 10**12}.{ident.int % 10**7:07d}"
        scan = ident.bytes[:15]
        self.card = Card(f"Ms {ident.hex}", Decimal(number), ident, scan, datetime(1987, 6, 5, 4, 3, 21, tzinfo=UTC))
        self.marks = [ident.hex, number, str(ident), base64.b64encode(scan).decode()]

    def seen_in(self, where: str | bytes) -> list[str]:
        """Which of its marks can be read there."""
        text = where.decode("utf-8", "replace") if isinstance(where, bytes) else where
        return [mark for mark in self.marks if mark in text]


@pytest.fixture
def secret() -> Secret:
    return Secret()


@dataclasses.dataclass
class NewCard:
    """`Card` as it is in the next release: stored values do not fit it."""

    holder: int
    number: UUID
    ident: datetime
    scan: set[int]
    when: Decimal


class Told:
    """The spans and log records that a manager exported."""

    def __init__(self) -> None:
        self._spans, self._logs = InMemorySpanExporter(), InMemoryLogRecordExporter()
        tracing, logging_ = TracerProvider(), LoggerProvider()
        tracing.add_span_processor(SimpleSpanProcessor(self._spans))
        logging_.add_log_record_processor(SimpleLogRecordProcessor(self._logs))
        self.telemetry = Telemetry(tracer_provider=tracing, logger_provider=logging_)

    @property
    def text(self) -> str:
        spans = [span.to_json() for span in self._spans.get_finished_spans()]
        return "\n".join([*spans, *(repr(data) for data in self._logs.get_finished_logs())])


def declare(manager: TaskManager, card: type[Any]) -> dict[str, Any]:
    """The same task types in each release, but for the class of their argument."""

    async def pay(card: Any, *, copies: list[Any]) -> None:
        assert isinstance(card, Card)

    async def refuse(card: Any) -> None:
        raise RuntimeError("the bank said no")

    def in_thread(card: Any) -> None:
        assert isinstance(card, Card)

    functions = {function.__name__: function for function in (pay, refuse, in_thread)}
    for function in functions.values():
        function.__annotations__["card"] = card
        function.__annotations__["copies"] = list[card]
        manager.task(persist=True)(function)
    return functions


async def api_text(manager: TaskManager, ids: list[str]) -> str:
    """What the API tells about the tasks, where it may show arguments."""
    app = FastAPI()
    TaskAdmin(app, manager, display_func_args=True)
    paths = ["/tasks", "/tasks/failures", "/tasks/instances", *(f"/tasks/{task_id}" for task_id in ids)]
    answers = [await get(app, path) for path in paths]
    assert [answer.status for answer in answers] == [200] * len(paths)
    return json.dumps([answer.json for answer in answers])


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
async def test_arguments_can_be_read_nowhere_once_there_is_a_key(
    fleet: Fleet, secret: Secret, key: bytes | None, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told = Told()
    first = fleet.manager(clock=FakeClock(LONG_AGO), encrypt_args_key=key, telemetry=told.telemetry)
    second = fleet.manager(encrypt_args_key=key, telemetry=told.telemetry)
    functions = declare(first, Card)
    declare(second, Card)
    await fleet.start(first)
    ids = [
        await first.enqueue(functions["pay"], secret.card, copies=[secret.card], delay=60),
        await first.enqueue(functions["refuse"], secret.card, delay=60),
        await first.enqueue(functions["in_thread"], secret.card, delay=60),
    ]
    waiting = dump(request, fleet.storage) + (await api_text(first, ids)).encode()
    await fleet.die(first)
    await fleet.start(second)
    ended = [(await finish(second, task_id)).status for task_id in ids]
    assert ended == [TaskStatus.SUCCESS, TaskStatus.FAILED, TaskStatus.SUCCESS]
    finished = dump(request, fleet.storage)
    shown = await api_text(second, ids)

    assert secret.seen_in(waiting) == secret.seen_in(finished) == (secret.marks if key is None else [])
    assert bool(secret.seen_in(shown)) is (key is None)
    assert "pay" in told.text
    assert secret.seen_in(told.text) == []
    if key is not None:
        assert secret.seen_in(caplog.text) == []


async def test_arguments_that_no_longer_fit_fail_the_task_without_being_told(
    fleet: Fleet, secret: Secret, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told = Told()
    first = fleet.manager(clock=FakeClock(LONG_AGO), encrypt_args_key=KEY, telemetry=told.telemetry)
    second = fleet.manager(encrypt_args_key=KEY, telemetry=told.telemetry)
    functions = declare(first, Card)
    declare(second, NewCard)
    await fleet.start(first)
    ids = [await first.enqueue(functions[name], secret.card, delay=60) for name in ("refuse", "in_thread")]
    await fleet.die(first)
    await fleet.start(second)
    for task_id in ids:
        record = await finish(second, task_id)
        assert record.status is TaskStatus.FAILED
        assert record.error is not None
        assert "cannot be read back" in record.error
        assert "holder" in record.error
        assert secret.seen_in(f"{record.error} {record.stacktrace}") == []
    assert secret.seen_in(dump(request, fleet.storage)) == []
    assert secret.seen_in(await api_text(second, ids)) == []
    assert secret.seen_in(told.text) == []
    assert secret.seen_in(caplog.text) == []


@pytest.mark.parametrize("mistake", ["too many", "inside something else", "unknown name"])
async def test_an_argument_that_cannot_be_stored_is_refused_without_being_told(
    secret: Secret, mistake: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    args: list[Any] = [secret.card]
    kwargs: dict[str, Any] = {}
    match mistake:
        case "too many":
            args.append(secret.card)
        case "inside something else":
            args[0] = [secret.card, object()]
        case "unknown name":
            kwargs["other"] = secret.card
    manager = TaskManager(encrypt_args_key=KEY)
    functions = declare(manager, Card)
    await manager.startup()
    try:
        with pytest.raises(TaskArgumentError) as caught:
            await manager.enqueue(functions["refuse"], *args, **kwargs)
    finally:
        await manager.shutdown()
    assert secret.seen_in(f"{caught.value} {caught.value.__cause__}") == []
    assert secret.seen_in(caplog.text) == []
