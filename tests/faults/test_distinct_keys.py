"""Two idempotency keys are never one, whatever they are made of, on every backend."""

from __future__ import annotations

import pytest

from taskflow_otel import TaskStatus
from taskflow_otel.backends import MemoryBackend
from tests.backends.conftest import FACTORIES, BackendFactory
from tests.faults.values import NASTY_TEXTS
from tests.ledger.fleet import Fleet
from tests.managers import finish

KEYS = sorted(
    {
        *NASTY_TEXTS, "a\0b", "a\\x00b", "a\ud800", "a\\ud800", "a?", "a\ufffd\ufffd", "ss", "ß", "e\u0301",
        "\u212b", "å", "Å", "a\t", "a  ", "a\u200b", "☕" * 255, "☕" * 254 + "a", "x" * 255, "X" * 255,
    }
    - {""}
    - {text for text in NASTY_TEXTS if len(text) > 255}
)  # fmt: skip
"""Texts that some database, encoding or collation takes for one another."""


async def job(number: int) -> None: ...


@pytest.mark.parametrize("kind", sorted(set(FACTORIES) - {"memory", "pgbouncer"}))
async def test_each_key_is_one_of_its_own_on_every_instance(request: pytest.FixtureRequest, kind: str) -> None:
    factory: BackendFactory = FACTORIES[kind](request)
    async with Fleet(factory) as fleet:
        one, other = fleet.manager(), fleet.manager()
        for manager in (one, other):
            manager.task(persist=True, name="job")(job)
        await fleet.start(one, other)
        ids = [await one.enqueue(job, number, idempotency_key=key) for number, key in enumerate(KEYS)]
        assert len(set(ids)) == len(KEYS)
        for task_id in ids:
            assert (await finish(one, task_id)).status is TaskStatus.SUCCESS
        for manager in (one, other):
            again = [await manager.enqueue(job, number, idempotency_key=key) for number, key in enumerate(KEYS)]
            assert [KEYS[at] for at, task_id in enumerate(again) if task_id != ids[at]] == []


async def test_in_memory_each_key_is_one_of_its_own_too() -> None:
    async with Fleet(lambda: MemoryBackend(durable=True)) as fleet:
        manager = fleet.manager()
        manager.task(name="job")(job)
        await fleet.start(manager)
        ids = [await manager.enqueue(job, number, idempotency_key=key) for number, key in enumerate(KEYS)]
        assert len(set(ids)) == len(KEYS)
        assert [await manager.enqueue(job, number, idempotency_key=key) for number, key in enumerate(KEYS)] == ids
