"""Backends that store what people did through the administration, which is optional."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from taskflow_otel.backends.admin import AuditStore, KeepsAudit, KeepsOperations, OperationStore
from taskflow_otel.backends.base import Backend
from taskflow_otel.model.audit import AuditCursor, AuditEntry, AuditQuery, is_about
from taskflow_otel.model.ids import new_task_id
from taskflow_otel.model.operation import Operation, OperationItem, OperationQuery, Selection
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import AuditOutcome, ItemOutcome, OperationKind, OperationStatus
from taskflow_otel.testing.backends.fixtures import BackendFixtures, Open
from taskflow_otel.testing.backends.samples import BASE, TEXT


@dataclass(frozen=True, slots=True)
class LaterQuery(TaskQuery):
    """A query of a later version, which has one more filter."""

    region: str | None = None


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


def make_operation(**fields: Any) -> Operation:
    """A bulk operation that has begun."""
    defaults: dict[str, Any] = {
        "operation_id": new_task_id(),
        "kind": OperationKind.RETRY.value,
        "status": OperationStatus.RUNNING.value,
        "created_at": BASE,
        "owner": "one",
        "begun": True,
    }
    return Operation(**{**defaults, **fields})


def make_selection() -> Selection:
    """A selection with a value in every field."""
    query = TaskQuery(status=TaskStatus.FAILED, tag=("a", None), since=BASE, q=TEXT)
    return Selection(statuses=["failed", "cancelled"], query=query, ended_before=BASE, at=1, cursor="x", limit=7)


def _ended(operation: Operation, at: datetime = BASE) -> Operation:
    return replace(operation, status=OperationStatus.DONE.value, ended_at=at, owner=None)


def _operations_of(backend: Backend) -> OperationStore:
    if not isinstance(backend, KeepsOperations):
        pytest.skip("this backend does not store bulk operations")
    return backend.operation_store


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
        operations=query.operations,
        limit=query.limit,
        cursor=cursor,
    )


class AdminConformance(BackendFixtures):
    """Tests of the audit and of bulk operations."""

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
        tasks, operations = [new_task_id(), new_task_id()], [new_task_id() for _ in range(3)]
        entries = [
            make_entry(
                at=BASE + timedelta(seconds=number // 3),
                actor=("ada", "bob", None)[number % 3],
                action=("retry-task", "pause-queue")[number % 2],
                outcome=(AuditOutcome.DONE, AuditOutcome.REFUSED, AuditOutcome.FAILED)[number % 5 % 3].value,
                task_id=(None, *tasks)[number % 4 % 3],
                operation_id=operations[number % 3] if number % 4 == 3 else None,
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
            {"task_id": tasks[0], "operations": (operations[1],), "actor": "ada"},
            {"task_id": "none", "operations": tuple(operations)},
        ]
        newest_first = sorted(entries, key=lambda entry: (entry.at, entry.entry_id), reverse=True)
        for condition in conditions:
            query = AuditQuery(limit=7, **condition)
            expected = [entry for entry in newest_first if is_about(entry, query)]
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

    async def test_an_operation_comes_back_as_it_was(self, backend: Backend, open_backend: Open) -> None:
        store = _operations_of(backend)
        operation = make_operation(actor="ada", reason=TEXT, filter="q=x", selection=make_selection())
        assert await store.begin(operation) == operation
        assert await store.begin(replace(operation, actor="eve")) == operation
        again = _operations_of(await open_backend())
        assert await again.get(operation.operation_id) == operation
        assert await again.get(new_task_id()) is None

    async def test_of_all_requests_with_one_key_the_first_makes_an_operation(self, open_backend: Open) -> None:
        stores = [_operations_of(await open_backend()) for _ in range(3)]
        begun = await asyncio.gather(*(store.begin(make_operation(key="k")) for store in stores for _ in range(3)))
        assert len({operation.operation_id for operation in begun}) == 1
        assert (await stores[0].page(OperationQuery())) == [begun[0]]
        other = make_operation(key="K ")
        assert await stores[0].begin(other) == other

    async def test_operations_are_listed_newest_first_and_the_unfinished_ones_oldest_first(
        self, backend: Backend
    ) -> None:
        store = _operations_of(backend)
        kinds = [OperationKind.RETRY, OperationKind.CANCEL]
        made = [make_operation(kind=kinds[number % 2].value) for number in range(7)]
        for operation in made:
            await store.begin(operation)
        done = _ended(made[2])
        assert await store.save(done, [])
        made[2] = done
        assert await store.page(OperationQuery()) == made[::-1]
        assert await store.page(OperationQuery(limit=2, cursor=made[5].operation_id)) == [made[4], made[3]]
        assert await store.page(OperationQuery(kind=OperationKind.CANCEL.value)) == made[5::-2]
        assert await store.page(OperationQuery(status=OperationStatus.DONE.value)) == [done]
        assert (
            await store.page(OperationQuery(status=OperationStatus.DONE.value, kind=OperationKind.CANCEL.value)) == []
        )
        assert await store.unfinished(3) == [made[0], made[1], made[3]]

    async def test_items_are_written_with_the_state_of_their_operation(self, backend: Backend) -> None:
        store = _operations_of(backend)
        operation = make_operation()
        await store.begin(operation)
        items = [OperationItem(seq=number, task_id=new_task_id()) for number in range(450)]
        operation = replace(operation, total=450)
        assert await store.save(operation, items)
        assert await store.save(operation, items[:10]), "written again"
        settled = [
            replace(items[0], outcome=ItemOutcome.DONE.value, new_task_id=new_task_id()),
            replace(items[1], outcome=ItemOutcome.REFUSED.value, detail=TEXT),
        ]
        operation = replace(operation, done=2, succeeded=1)
        assert await store.save(operation, settled)
        assert await store.get(operation.operation_id) == operation
        assert await store.items(operation.operation_id, 0, 1_000) == [*settled, *items[2:]]
        assert await store.items(operation.operation_id, 1, 2) == [settled[1], items[2]]
        assert await store.items(operation.operation_id, 450, 10) == []
        other = make_operation()
        await store.begin(other)
        await store.save(replace(other, total=1), [OperationItem(seq=0, task_id=items[3].task_id)])
        assert await store.of_task(items[3].task_id, 10) == [other.operation_id, operation.operation_id]
        assert await store.of_task(items[3].task_id, 1) == [other.operation_id]
        assert await store.of_task(new_task_id(), 10) == []

    async def test_an_owner_that_was_replaced_writes_nothing_more(self, open_backend: Open) -> None:
        stores = [_operations_of(await open_backend()) for _ in range(3)]
        operation = make_operation()
        await stores[0].begin(operation)
        claims = await asyncio.gather(*(store.claim(operation.operation_id, 0, "third") for store in stores))
        [claimed] = [found for found in claims if found is not None]
        assert claimed == replace(operation, owner="third", token=1)
        assert not await stores[0].save(replace(operation, total=1), [OperationItem(seq=0, task_id="x")])
        assert await stores[1].items(operation.operation_id, 0, 10) == []
        assert await stores[1].save(_ended(claimed), [])
        assert not await stores[1].save(claimed, [])
        assert await stores[1].claim(operation.operation_id, 1, "newer") is None
        assert await stores[1].claim(new_task_id(), 0, "newer") is None

    async def test_an_operation_of_a_later_version_is_shown_but_not_claimed_without_its_filter(
        self, backend: Backend
    ) -> None:
        store = _operations_of(backend)
        query = LaterQuery(status=TaskStatus.FAILED, region="north")
        later = make_operation(selection=Selection(statuses=["failed"], query=query))
        unused = make_operation(selection=Selection(statuses=["failed"], query=LaterQuery()))
        for operation in (later, unused):
            await store.begin(operation)
        shown = await store.get(later.operation_id)
        assert (shown is not None and shown.operation_id) == later.operation_id
        claimed = await store.claim(later.operation_id, 0, "other")
        assert claimed is None or claimed.selection == later.selection
        assert await store.claim(unused.operation_id, 0, "other") is not None

    async def test_operations_that_ended_are_deleted_with_their_items_in_batches(self, backend: Backend) -> None:
        store = _operations_of(backend)
        made = [make_operation(key=f"k{number}") for number in range(3)]
        task_id = new_task_id()
        for number, operation in enumerate(made):
            await store.begin(operation)
            items = [OperationItem(seq=n, task_id=f"t{n}" if n else task_id) for n in range(25)]
            await store.save(replace(operation, total=25), items)
            if number < 2:
                assert await store.save(_ended(operation, BASE + timedelta(hours=number)), [])
        deleted = []
        while number := await store.forget(BASE + timedelta(minutes=30), 10):
            deleted.append(number)
        assert sum(deleted) >= 1
        assert max(deleted) <= 26
        left = [made[2].operation_id, made[1].operation_id]
        assert [operation.operation_id for operation in await store.page(OperationQuery())] == left
        assert await store.of_task(task_id, 10) == left
        assert await store.items(made[0].operation_id, 0, 10) == []
        assert await store.begin(replace(made[0], operation_id=new_task_id())) != made[0]
