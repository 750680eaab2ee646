"""Backends that store what people did through the administration, which is optional."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from taskflow_otel.backends.admin import AuditStore, KeepsAudit
from taskflow_otel.backends.base import Backend
from taskflow_otel.model.audit import AuditCursor, AuditEntry, AuditQuery, is_about
from taskflow_otel.model.ids import new_task_id
from taskflow_otel.model.vocabulary import AuditOutcome
from taskflow_otel.testing.backends.fixtures import BackendFixtures, Open
from taskflow_otel.testing.backends.samples import BASE, TEXT


def make_entry(**fields: Any) -> AuditEntry:
    """An entry of the audit."""
    defaults: dict[str, Any] = {
        "entry_id": new_task_id(),
        "at": BASE,
        "actor": "ada",
        "method": "session",
        "client": "192.0.2.1",
        "action": "retry-task",
        "route": "POST /tasks/{task_id}/retry",
        "outcome": AuditOutcome.DONE.value,
        "status": 202,
        "instance": "one",
    }
    return AuditEntry(**{**defaults, **fields})


def _audit_of(backend: Backend) -> AuditStore:
    if not isinstance(backend, KeepsAudit):
        pytest.skip("this backend does not store the audit")
    return backend.audit_store


async def _all(store: AuditStore, query: AuditQuery) -> list[AuditEntry]:
    """All pages of a query, one after the other."""
    found: list[AuditEntry] = []
    page = await store.page(query)
    while True:
        assert len(page.entries) <= query.limit
        found += page.entries
        if page.next_cursor is None:
            return found
        page = await store.page(_after(query, page.next_cursor))


def _after(query: AuditQuery, cursor: AuditCursor) -> AuditQuery:
    return AuditQuery(
        actor=query.actor,
        action=query.action,
        outcome=query.outcome,
        since=query.since,
        until=query.until,
        task_id=query.task_id,
        limit=query.limit,
        cursor=cursor,
    )


class AdminConformance(BackendFixtures):
    """Tests of the audit."""

    async def test_an_entry_of_the_audit_comes_back_as_it_was(self, backend: Backend, open_backend: Open) -> None:
        store = _audit_of(backend)
        full = make_entry(
            target=TEXT, task_id=new_task_id(), operation_id=new_task_id(), reason=TEXT, detail=TEXT * 10, times=7
        )
        stranger = make_entry(at=BASE + timedelta(microseconds=1), actor=None, method=None, client=None)
        await store.add([full, stranger])
        await store.add([])
        assert await _all(store, AuditQuery()) == [stranger, full]
        again = _audit_of(await open_backend())
        assert await _all(again, AuditQuery()) == [stranger, full]

    async def test_an_entry_is_stored_once(self, backend: Backend) -> None:
        store = _audit_of(backend)
        entry, other = make_entry(), make_entry(at=BASE + timedelta(seconds=1))
        await store.add([entry])
        await store.add([make_entry(entry_id=entry.entry_id, actor="eve"), other])
        assert await _all(store, AuditQuery()) == [other, entry]

    async def test_pages_of_the_audit_agree_with_a_plain_filter(self, backend: Backend) -> None:
        store = _audit_of(backend)
        tasks = [new_task_id(), new_task_id()]
        entries = [
            make_entry(
                at=BASE + timedelta(seconds=number // 3),
                actor=("ada", "bob", None)[number % 3],
                action=("retry-task", "pause-queue")[number % 2],
                outcome=(AuditOutcome.DONE, AuditOutcome.REFUSED, AuditOutcome.FAILED)[number % 5 % 3].value,
                task_id=(None, *tasks)[number % 4 % 3],
            )
            for number in range(60)
        ]
        for start in range(0, 60, 20):
            await store.add(entries[start : start + 20])
        early, late = BASE + timedelta(seconds=4), BASE + timedelta(seconds=15)
        conditions: list[dict[str, Any]] = [
            {},
            {"actor": "ada"},
            {"actor": "ad"},
            {"action": "pause-queue"},
            {"outcome": AuditOutcome.REFUSED.value},
            {"since": early},
            {"until": late},
            {"since": early, "until": late, "actor": "bob"},
            {"task_id": tasks[0]},
            {"task_id": tasks[1], "outcome": AuditOutcome.DONE.value, "since": early, "until": late},
            {"task_id": "none"},
        ]
        newest_first = sorted(entries, key=lambda entry: (entry.at, entry.entry_id), reverse=True)
        for condition in conditions:
            query = AuditQuery(limit=7, **condition)
            expected = [
                entry for entry in newest_first if is_about(entry, query) and query.task_id in (None, entry.task_id)
            ]
            assert await _all(store, query) == expected, condition

    async def test_the_oldest_entries_are_deleted_in_batches(self, backend: Backend) -> None:
        store = _audit_of(backend)
        task_id = new_task_id()
        entries = [make_entry(at=BASE + timedelta(seconds=number), task_id=task_id) for number in range(6)]
        await store.add(entries)
        assert await store.forget(BASE + timedelta(seconds=4), 3) == 3
        assert await _all(store, AuditQuery(task_id=task_id)) == entries[:2:-1]
        assert await store.forget(BASE + timedelta(seconds=4), 3) == 1
        assert await store.forget(BASE + timedelta(seconds=4), 3) == 0
        assert await _all(store, AuditQuery()) == entries[:3:-1]

    async def test_simultaneous_entries_of_several_instances_are_all_kept(self, open_backend: Open) -> None:
        stores = [_audit_of(await open_backend()) for _ in range(3)]
        entries = [[make_entry(at=BASE + timedelta(seconds=n)) for n in range(20)] for _ in stores]
        await asyncio.gather(
            *(
                store.add(own[start : start + 5])
                for store, own in zip(stores, entries, strict=True)
                for start in range(0, 20, 5)
            )
        )
        found = await _all(stores[0], AuditQuery(limit=100))
        assert {entry.entry_id for entry in found} == {entry.entry_id for own in entries for entry in own}
