"""What happens to the entries of the audit: published, stored, held while the backend fails, and never lost unseen."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta

import pytest

from taskflow_otel import TaskManager
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.memory_admin import MemoryAuditStore, MemoryOperationStore
from taskflow_otel.bus import Exporter, ObserverBus
from taskflow_otel.engine.admin.audit_trail import AuditTrail
from taskflow_otel.engine.life import Life
from taskflow_otel.errors import BackendError, BackendUnavailableError
from taskflow_otel.model.audit import AuditEntry, AuditQuery
from taskflow_otel.model.vocabulary import AuditOutcome, EngineState
from taskflow_otel.testing.backends.admin import make_entry
from taskflow_otel.testing.clock import FakeClock
from tests.managers import metric, started


class Troubled(MemoryAuditStore):
    """A store that a test can trouble."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble: Exception | None = None
        self.refused: set[str] = set()
        self.batches: list[int] = []

    async def add(self, entries: Sequence[AuditEntry]) -> None:
        if self.trouble is not None:
            raise self.trouble
        if {entry.action for entry in entries} & self.refused:
            raise BackendError("a value is refused", transient=False)
        self.batches.append(len(entries))
        await super().add(entries)


class Heard(Exporter):
    name = "heard"

    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []

    def on_audit(self, entry: AuditEntry) -> None:
        self.entries.append(entry)


class Scene:
    """A trail of an engine that runs."""

    def __init__(self) -> None:
        self.clock, self.store, self.heard = FakeClock(), Troubled(), Heard()
        life = Life()
        life.begin()
        life.state = EngineState.RUNNING
        bus = ObserverBus([self.heard])
        self.trail = AuditTrail(self.store, MemoryOperationStore(), bus, self.clock, 1.0, life, lambda: "here")

    async def stored(self) -> list[AuditEntry]:
        """What is stored, oldest first."""
        return (await self.store.page(AuditQuery(limit=10_000))).entries[::-1]


async def test_an_entry_is_published_and_stored_before_the_answer() -> None:
    scene = Scene()
    await scene.trail.record(make_entry(instance=""))
    [entry] = await scene.stored()
    assert entry.instance == "here"
    assert scene.heard.entries == [entry]


async def test_texts_from_outside_are_made_plain_and_short() -> None:
    scene = Scene()
    await scene.trail.record(make_entry(actor="a\x00\ud800" * 500, detail="é" * 5_000, task_id="x" * 100))
    [entry] = await scene.stored()
    assert entry.actor is not None
    assert entry.detail is not None
    assert (len(entry.actor), len(entry.detail), len(entry.task_id or "")) == (200, 1_000, 64)
    assert entry.actor.startswith("a\\x00\\ud800a")
    entry.actor.encode()


async def test_what_a_failing_backend_does_not_take_is_stored_once_it_works() -> None:
    scene = Scene()
    scene.store.trouble = BackendUnavailableError("down")
    for number in range(3):
        await scene.trail.record(make_entry(target=str(number)))
    with pytest.raises(BackendUnavailableError):
        await scene.trail.tick()
    assert await scene.stored() == []
    assert len(scene.heard.entries) == 3
    scene.store.trouble = None
    await scene.trail.tick()
    assert {entry.target for entry in await scene.stored()} == {"0", "1", "2"}
    assert scene.store.batches == [3], "together"


async def test_more_than_can_be_held_is_counted_and_an_entry_says_how_many_are_missing() -> None:
    scene = Scene()
    scene.store.trouble = BackendUnavailableError("down")
    for _ in range(1_005):
        await scene.trail.record(make_entry())
    assert scene.trail.lost == 5
    scene.store.trouble = None
    await scene.trail.tick()
    stored = await scene.stored()
    [gap] = [entry for entry in stored if entry.action == "audit"]
    assert (gap.times, gap.outcome, len(stored)) == (5, AuditOutcome.FAILED, 1_001)


async def test_an_entry_that_the_backend_refuses_for_good_keeps_no_other_one_back() -> None:
    scene = Scene()
    scene.store.refused = {"bad"}
    scene.store.trouble = BackendUnavailableError("down")
    for action in ("good", "bad", "better"):
        await scene.trail.record(make_entry(action=action))
    scene.store.trouble = None
    await scene.trail.tick()
    assert {entry.action for entry in await scene.stored()} == {"good", "better", "audit"}
    assert scene.trail.lost == 1


async def test_many_refused_attempts_of_strangers_share_an_entry() -> None:
    scene = Scene()
    for _ in range(500):
        await scene.trail.record(
            make_entry(actor=None, action="login", outcome=AuditOutcome.REFUSED.value, status=401), wait=False
        )
    await scene.trail.tick()
    assert [entry.times for entry in await scene.stored()] == [1] * 10
    await scene.clock.advance(61)
    await scene.trail.tick()
    assert sorted(entry.times for entry in await scene.stored()) == [*[1] * 10, 490]


async def test_a_stop_stores_what_waits_and_what_was_counted() -> None:
    scene = Scene()
    for _ in range(12):
        await scene.trail.record(make_entry(actor=None, outcome=AuditOutcome.REFUSED.value, status=401), wait=False)
    await scene.trail.stop()
    assert sum(entry.times for entry in await scene.stored()) == 12


async def test_a_read_sees_what_was_recorded_before_it() -> None:
    scene = Scene()
    entry = make_entry(actor=None, outcome=AuditOutcome.REFUSED.value, status=401)
    await scene.trail.record(entry, wait=False)
    assert [found.entry_id for found in (await scene.trail.page(AuditQuery())).entries] == [entry.entry_id]


async def test_each_entry_is_a_line_of_the_log_that_no_name_can_forge(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    caplog.set_level(logging.INFO, "taskflow_otel.audit")
    await scene.trail.record(make_entry(actor="eve\nforged", task_id=None, target="a\nb"))
    [line] = caplog.records
    assert "\n" not in line.getMessage()
    assert (line.__dict__["actor"], line.__dict__["action"]) == ("eve\nforged", "retry-task")


async def test_entries_from_before_the_start_are_stored_by_it_and_old_ones_are_deleted() -> None:
    clock, backend = FakeClock(), MemoryBackend(durable=True)
    manager = TaskManager(snapshot_backend=backend, clock=clock, audit_retention_days=7)
    early = make_entry(at=clock.now() - timedelta(days=6.999))
    await manager.engine.audit.record(early)
    await manager.engine.audit.record(make_entry(at=clock.now() - timedelta(days=8)))
    assert (await backend.audit_store.page(AuditQuery())).entries == []
    async with started(manager):
        await clock.advance(2)
        assert len((await backend.audit_store.page(AuditQuery())).entries) == 2
        await clock.advance(60)
        [kept] = (await backend.audit_store.page(AuditQuery())).entries
        assert kept.entry_id == early.entry_id
        assert metric(manager, "taskflow_events_dropped_total", "audit") == 0
