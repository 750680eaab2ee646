"""Tasks whose key a process does not have wait for one that has it; a retry by hand is encrypted with the first key."""

from __future__ import annotations

import gc
import logging
import weakref
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet
from fastapi import BackgroundTasks, FastAPI

from taskflow_otel import TaskArgumentError, TaskManager, TaskStatus
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.errors import TaskStateError
from taskflow_otel.model.cipher import PayloadCipher, seal_of
from taskflow_otel.testing.clock import FakeClock, settle
from tests.asgi import running
from tests.ledger.fleet import LONG_AGO, Fleet
from tests.managers import finish, started
from tests.waiting import eventually

OLD, NEW = Fernet.generate_key(), Fernet.generate_key()


def seal(key: bytes) -> str | None:
    return seal_of(PayloadCipher(key).encrypt("{}"))


def reports(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [found.getMessage() for found in caplog.records if "key that this process does not have" in found.message]


@pytest.mark.parametrize("wrong", [None, NEW], ids=["no key", "a wrong key"])
async def test_a_backlog_whose_key_is_missing_waits_and_runs_once_a_process_has_the_key(
    fleet: Fleet, wrong: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    received: list[str] = []

    async def job(text: str) -> None:
        received.append(text)

    first = fleet.manager(clock=FakeClock(LONG_AGO), encrypt_args_key=OLD)
    without = fleet.manager(encrypt_args_key=wrong)
    again = fleet.manager(encrypt_args_key=[NEW, OLD])
    for manager in (first, without, again):
        manager.task(persist=True)(job)
    await fleet.start(first)
    sealed = [await first.enqueue(job, f"sealed {n}", delay=60) for n in range(3)]
    await fleet.die(first)
    await fleet.start(without)
    # Its own tasks continue.
    assert (await finish(without, await without.enqueue(job, "own"))).status is TaskStatus.SUCCESS
    calls = fleet.wires[without].calls
    await eventually(lambda: [name for name, _ in calls].count("take_over") > 2, "several takeovers")
    assert [(await without.get(task_id)).status for task_id in sealed] == [TaskStatus.PENDING] * 3
    assert received == ["own"]
    assert [text[:24] for text in reports(caplog)] == ["3 stored tasks named 'jo"]

    await fleet.start(again)
    assert [(await finish(again, task_id)).status for task_id in sealed] == [TaskStatus.SUCCESS] * 3
    assert sorted(received) == ["own", "sealed 0", "sealed 1", "sealed 2"]


async def test_a_retry_by_hand_is_encrypted_with_the_first_key_whatever_its_original_was(fleet: Fleet) -> None:
    async def job(text: str) -> None:
        assert text == "secret"

    managers = [fleet.manager(encrypt_args_key=keys) for keys in (None, OLD, [NEW, OLD], None)]
    for manager in managers:
        manager.task(persist=True)(job)
    await fleet.start(*managers)
    task_id = await managers[0].enqueue(job, "secret")
    seals: list[str | None] = []
    for manager in managers[1:3]:
        await finish(manager, task_id)
        task_id = (await manager.retry(task_id, rerun=True)).task_id
        stored = await fleet.storage.get(task_id)
        assert stored is not None
        seals.append(seal_of(stored.payload))
    assert seals == [seal(OLD), seal(NEW)]
    assert (await finish(managers[2], task_id)).status is TaskStatus.SUCCESS
    for manager, why in ((managers[3], "has no key"), (managers[1], "none of the keys")):
        with pytest.raises(TaskStateError, match=why):
            await manager.retry(task_id, rerun=True)


async def test_a_planned_run_waits_for_a_process_that_has_its_key(caplog: pytest.LogCaptureFixture) -> None:
    backend, clock, received = MemoryBackend(durable=True), FakeClock(), []

    async def job(text: str) -> None:
        received.append(text)

    for key in (OLD, None, [NEW, OLD]):
        manager = TaskManager(snapshot_backend=backend, clock=clock, encrypt_args_key=key)
        manager.task()(job)
        async with started(manager):
            if key == OLD:
                planned = await manager.schedule_once(job, "secret", run_at=clock.now() + timedelta(seconds=100))
            await settle()
            await clock.advance(60)
            assert (received == ["secret"]) is (key == [NEW, OLD])
    [report] = reports(caplog)
    assert "'job'" in report
    stored = await backend.get(planned.task_id)
    assert stored is not None
    assert seal_of(stored.payload) == seal(NEW)


def test_a_damaged_ciphertext_of_a_known_key_is_not_taken_for_one_of_another_key() -> None:
    cipher = PayloadCipher(OLD)
    assert seal_of(cipher.encrypt("{}")) in cipher.seals
    assert seal_of(cipher.encrypt("{}")[:-3]) in cipher.seals
    assert seal_of("fernet1:gAAAA") is None
    with pytest.raises(TaskArgumentError, match="damaged"):
        cipher.decrypt(cipher.encrypt("{}")[:-3])


def test_a_ciphertext_of_the_first_versions_is_read() -> None:
    assert PayloadCipher(OLD).decrypt("fernet1:" + Fernet(OLD).encrypt(b"{}").decode()) == "{}"


@dataclass
class Card:
    """Something secret."""

    number: str


def plain_function(received: list[Card], *, sync: bool) -> Any:
    async def undecorated(card: Card) -> None:
        received.append(card)

    def undecorated_sync(card: Card) -> None:
        received.append(card)

    return undecorated_sync if sync else undecorated


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("key", [None, OLD], ids=["plain", "encrypted"])
async def test_arguments_of_an_undecorated_function_do_not_wait_in_plain_text(key: bytes | None, sync: bool) -> None:
    clock, received = FakeClock(datetime(2026, 1, 1, tzinfo=UTC)), list[Card]()
    function = plain_function(received, sync=sync)
    async with started(TaskManager(clock=clock, encrypt_args_key=key)) as manager:
        card = Card("4111")
        kept = weakref.ref(card)
        task_id = await manager.enqueue(function, card, delay=10)
        del card
        gc.collect()
        assert (kept() is None) is (key is not None)
        await clock.advance(11)
        record = await finish(manager, task_id)
        assert (record.status, record.payload) == (TaskStatus.SUCCESS, None)
    assert received == [Card("4111")]


async def test_undecorated_functions_of_a_request_get_their_arguments_back_once_they_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    app, manager = FastAPI(), TaskManager(encrypt_args_key=OLD)
    manager.install(app)
    received, kept = list[Card](), list[bool]()
    function = plain_function(received, sync=True)

    @app.post("/")
    async def route(tasks: BackgroundTasks) -> None:
        card = Card("4111")
        seen = weakref.ref(card)
        tasks.add_task(function, card=card)
        del card
        gc.collect()
        kept.append(seen() is not None)

    async with (
        running(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        assert (await client.post("/")).status_code == 200
        assert (received, kept) == ([Card("4111")], [False])


async def test_an_undecorated_function_whose_argument_cannot_be_encrypted_is_refused_with_the_reason() -> None:
    async with started(TaskManager(encrypt_args_key=OLD)) as manager:
        with pytest.raises(TaskArgumentError, match="wait as ciphertext only"):
            await manager.enqueue(plain_function([], sync=False), object())
