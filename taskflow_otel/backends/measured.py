"""A backend whose operations are measured: how long each takes, and whether the backend answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from taskflow_otel.backends.admin import (
    AuditStore,
    FigureStore,
    KeepsAudit,
    KeepsFigures,
    KeepsOperations,
    OperationStore,
)
from taskflow_otel.backends.base import Applied, Backend, Change
from taskflow_otel.backends.failures import FailureStore, KeepsFailures, Occurrences
from taskflow_otel.backends.pool import (
    Claimed,
    KeepsPool,
    PoolBell,
    PoolDepth,
    Pooled,
    PoolStore,
    RingsForPool,
    Wanted,
)
from taskflow_otel.backends.spans import KeepsSpans, SpanStore
from taskflow_otel.backends.transactions import Joined, KeepsTransactions, TransactionStore
from taskflow_otel.errors import BackendError, BackendUnavailableError
from taskflow_otel.model.audit import AuditEntry, AuditPage, AuditQuery
from taskflow_otel.model.figures import Figure, Span
from taskflow_otel.model.operation import Operation, OperationItem, OperationQuery
from taskflow_otel.model.plain import repr_of
from taskflow_otel.model.query import FailureGroups, Instance, TaskCounts, TaskPage, TaskQuery, Trend
from taskflow_otel.model.record import LogEntry, TaskRecord
from taskflow_otel.model.vocabulary import OperationOutcome
from taskflow_otel.runtime.clock import Clock

T = TypeVar("T")

_OK, _ERROR = OperationOutcome.OK.value, OperationOutcome.ERROR.value
_ABANDONED = 1.0
"""Seconds after which a cancelled operation counts as one without an answer, and not as one that nobody wanted."""


class _Meter:
    """Measures operations, and remembers whether the backend answered the latest one."""

    def __init__(self, name: str, clock: Clock, observe: Callable[[str, str, str, float], None]) -> None:
        self._name = name
        self._clock = clock
        self._observe = observe
        self.failing = False

    async def measure(self, operation: str, work: Awaitable[T]) -> T:
        began = self._clock.monotonic()
        outcome: str | None = _ERROR
        try:
            answer = await work
        except BackendError as exc:
            self.failing = self.failing or exc.transient
            raise
        except BaseException as exc:
            if _is_of_driver(exc):
                self.failing = True
                raise _gave_way(self._name, exc) from exc
            if issubclass(type(exc), asyncio.CancelledError):
                if self._clock.monotonic() - began < _ABANDONED:
                    outcome = None
                else:
                    self.failing = True
            raise
        else:
            outcome, self.failing = _OK, False
            return answer
        finally:
            if outcome is not None:
                self._observe(self._name, operation, outcome, self._clock.monotonic() - began)


def _is_of_driver(exc: BaseException) -> bool:
    """Whether a driver raised what is no `Exception`: a cancellation that no one asked for, or a panic.

    It would end the part of the engine that uses the backend, and not only this operation.
    """
    if issubclass(type(exc), asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and not task.cancelling()
    return not issubclass(type(exc), (Exception, GeneratorExit, KeyboardInterrupt, SystemExit))


def _gave_way(backend: str, exc: BaseException) -> BackendUnavailableError:
    return BackendUnavailableError(f"the {backend} backend ended an operation by itself: {repr_of(exc)}")


class _MeasuredAudit:
    def __init__(self, store: AuditStore, meter: _Meter) -> None:
        self._store = store
        self._measure = meter.measure

    async def add(self, entries: Sequence[AuditEntry]) -> None:
        await self._measure("audit_add", self._store.add(entries))

    async def page(self, query: AuditQuery) -> AuditPage:
        return await self._measure("audit_page", self._store.page(query))

    async def forget(self, before: datetime, limit: int) -> int:
        return await self._measure("audit_forget", self._store.forget(before, limit))


class _MeasuredOperations:
    def __init__(self, store: OperationStore, meter: _Meter) -> None:
        self._store = store
        self._measure = meter.measure

    async def begin(self, operation: Operation) -> Operation:
        return await self._measure("operation_begin", self._store.begin(operation))

    async def get(self, operation_id: str) -> Operation | None:
        return await self._measure("operation_get", self._store.get(operation_id))

    async def page(self, query: OperationQuery) -> list[Operation]:
        return await self._measure("operation_page", self._store.page(query))

    async def unfinished(self, limit: int) -> list[Operation]:
        return await self._measure("operation_unfinished", self._store.unfinished(limit))

    async def claim(self, operation_id: str, token: int, owner: str) -> Operation | None:
        return await self._measure("operation_claim", self._store.claim(operation_id, token, owner))

    async def save(self, operation: Operation, items: Sequence[OperationItem]) -> bool:
        return await self._measure("operation_save", self._store.save(operation, items))

    async def items(self, operation_id: str, first: int, limit: int) -> list[OperationItem]:
        return await self._measure("operation_items", self._store.items(operation_id, first, limit))

    async def of_task(self, task_id: str, limit: int) -> list[str]:
        return await self._measure("operation_of_task", self._store.of_task(task_id, limit))

    async def forget(self, before: datetime, limit: int) -> int:
        return await self._measure("operation_forget", self._store.forget(before, limit))


class _MeasuredFigures:
    def __init__(self, store: FigureStore, meter: _Meter) -> None:
        self._store = store
        self._measure = meter.measure

    async def read(
        self,
        span: Span,
        first: int,
        last: int,
        *,
        by_name: bool = False,
        kinds: Collection[str] | None = None,
        names: Collection[str] | None = None,
    ) -> list[Figure]:
        work = self._store.read(span, first, last, by_name=by_name, kinds=kinds, names=names)
        return await self._measure("figure_read", work)

    async def oldest(self, span: Span) -> int | None:
        return await self._measure("figure_oldest", self._store.oldest(span))

    async def forget(self, span: Span, before: int, limit: int) -> int:
        return await self._measure("figure_forget", self._store.forget(span, before, limit))


class _MeasuredFailures:
    def __init__(self, store: FailureStore, meter: _Meter) -> None:
        self._store = store
        self._measure = meter.measure

    async def groups(self, query: TaskQuery, trend: Trend) -> FailureGroups:
        return await self._measure("failure_groups", self._store.groups(query, trend))

    async def occurrences(self, fingerprints: Collection[str], first: int, last: int, seconds: int) -> Occurrences:
        return await self._measure("failure_occurrences", self._store.occurrences(fingerprints, first, last, seconds))


class _MeasuredSpans:
    def __init__(self, store: SpanStore, meter: _Meter) -> None:
        self._store = store
        self._measure = meter.measure

    async def read(self, task_id: str) -> dict[int, str]:
        return await self._measure("span_read", self._store.read(task_id))


class _MeasuredPool:
    def __init__(self, store: PoolStore, meter: _Meter) -> None:
        self._store = store
        self._measure = meter.measure

    async def give(self, owner: str, tasks: Sequence[Pooled]) -> None:
        await self._measure("pool_give", self._store.give(owner, tasks))

    async def claim(self, owner: str, wanted: Wanted, seals: Collection[str]) -> list[Claimed]:
        return await self._measure("pool_claim", self._store.claim(owner, wanted, seals))

    async def claim_one(self, owner: str, task_id: str) -> Claimed | None:
        return await self._measure("pool_claim_one", self._store.claim_one(owner, task_id))

    async def depth(self, queues: Collection[str], *, others: bool = False) -> dict[str, PoolDepth]:
        return await self._measure("pool_depth", self._store.depth(queues, others=others))


class _MeasuredTransactions:
    def __init__(self, store: TransactionStore, meter: _Meter) -> None:
        self._store = store
        self._measure = meter.measure
        self.exclusive = store.exclusive

    def join(self, session: object) -> Joined:
        return self._store.join(session)

    def watch(self, ended: Callable[[], None]) -> None:
        self._store.watch(ended)

    async def claim(self, owner: str, task_ids: Collection[str]) -> list[Claimed]:
        return await self._measure("transaction_claim", self._store.claim(owner, task_ids))


class MeasuredBackend:
    """Passes every operation on to `backend`.

    `observe` gets backend, operation, outcome and seconds of each, except of `open`, `close` and `apply`: the one
    writer measures its transactions itself. The operations of a store have its name in front: `pool_claim`.
    """

    def __init__(self, backend: Backend, clock: Clock, observe: Callable[[str, str, str, float], None]) -> None:
        self._backend = backend
        self._meter = _Meter(backend.name, clock, observe)
        self._measure = self._meter.measure
        self.name: str = backend.name
        self.durable: bool = backend.durable
        # Only backends that keep something have the attribute for it; see `KeepsAudit`.
        if isinstance(backend, KeepsAudit):
            self.audit_store: AuditStore = _MeasuredAudit(backend.audit_store, self._meter)
        if isinstance(backend, KeepsOperations):
            self.operation_store: OperationStore = _MeasuredOperations(backend.operation_store, self._meter)
        if isinstance(backend, KeepsFigures):
            self.figure_store: FigureStore = _MeasuredFigures(backend.figure_store, self._meter)
        if isinstance(backend, KeepsFailures):
            self.failure_store: FailureStore = _MeasuredFailures(backend.failure_store, self._meter)
        if isinstance(backend, KeepsSpans):
            self.span_store: SpanStore = _MeasuredSpans(backend.span_store, self._meter)
        if isinstance(backend, KeepsPool):
            self.pool_store: PoolStore = _MeasuredPool(backend.pool_store, self._meter)
        if isinstance(backend, RingsForPool):
            # It lasts as long as its connection: nothing to measure.
            self.pool_bell: PoolBell = backend.pool_bell
        if isinstance(backend, KeepsTransactions):
            self.transaction_store: TransactionStore = _MeasuredTransactions(backend.transaction_store, self._meter)

    @property
    def failing(self) -> bool:
        """Whether the latest measured operation got no answer."""
        return self._meter.failing

    async def open(self) -> None:
        """Open the backend."""
        await self._backend.open()
        self._meter.failing = False

    async def close(self) -> None:
        """Close the backend."""
        await self._backend.close()

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        """Apply changes; not measured."""
        try:
            return await self._backend.apply(changes)
        except BaseException as exc:
            if _is_of_driver(exc):
                raise _gave_way(self.name, exc) from exc
            raise

    async def get(self, task_id: str) -> TaskRecord | None:
        """Measure `Backend.get`."""
        return await self._measure("get", self._backend.get(task_id))

    async def get_all(self, task_ids: Collection[str]) -> dict[str, TaskRecord]:
        """Measure `Backend.get_all`."""
        return await self._measure("get_all", self._backend.get_all(task_ids))

    async def logs(self, task_id: str) -> list[LogEntry]:
        """Measure `Backend.logs`."""
        return await self._measure("logs", self._backend.logs(task_id))

    async def page(self, query: TaskQuery) -> TaskPage:
        """Measure `Backend.page`."""
        return await self._measure("page", self._backend.page(query))

    async def counts(self, query: TaskQuery) -> TaskCounts:
        """Measure `Backend.counts`."""
        return await self._measure("counts", self._backend.counts(query))

    async def holder_of(self, idempotency_key: str) -> str | None:
        """Measure `Backend.holder_of`."""
        return await self._measure("holder_of", self._backend.holder_of(idempotency_key))

    async def changed_since(self, moment: datetime, *, not_of: str, limit: int) -> list[TaskRecord]:
        """Measure `Backend.changed_since`."""
        work = self._backend.changed_since(moment, not_of=not_of, limit=limit)
        return await self._measure("changed_since", work)

    async def request_cancel(self, task_id: str) -> bool:
        """Measure `Backend.request_cancel`."""
        return await self._measure("request_cancel", self._backend.request_cancel(task_id))

    async def cancel_requests(self, instance_id: str) -> list[str]:
        """Measure `Backend.cancel_requests`."""
        return await self._measure("cancel_requests", self._backend.cancel_requests(instance_id))

    async def beat(self, instance: Instance) -> bool:
        """Measure `Backend.beat`."""
        return await self._measure("beat", self._backend.beat(instance))

    async def instances(self) -> list[Instance]:
        """Measure `Backend.instances`."""
        return await self._measure("instances", self._backend.instances())

    async def declare_dead(self, instance_id: str, seen_heartbeat: datetime) -> bool:
        """Measure `Backend.declare_dead`."""
        return await self._measure("declare_dead", self._backend.declare_dead(instance_id, seen_heartbeat))

    async def take_over(
        self,
        dead: Collection[str],
        new_owner: str,
        names: Collection[str] | None,
        limit: int,
        seals: Collection[str] = (),
    ) -> list[TaskRecord]:
        """Measure `Backend.take_over`."""
        return await self._measure("take_over", self._backend.take_over(dead, new_owner, names, limit, seals))

    async def orphan_names(self, dead: Collection[str], beyond: Collection[str] | None = None) -> dict[str, int]:
        """Measure `Backend.orphan_names`."""
        return await self._measure("orphan_names", self._backend.orphan_names(dead, beyond))

    async def forget_instances(self, ids: Collection[str]) -> None:
        """Measure `Backend.forget_instances`."""
        await self._measure("forget_instances", self._backend.forget_instances(ids))

    async def delete_finished(self, before: datetime, limit: int) -> int:
        """Measure `Backend.delete_finished`."""
        return await self._measure("delete_finished", self._backend.delete_finished(before, limit))

    async def delete_tasks(self, task_ids: Collection[str]) -> list[str]:
        """Measure `Backend.delete_tasks`."""
        return await self._measure("delete_tasks", self._backend.delete_tasks(task_ids))

    async def latest_once(self, prefix: str) -> tuple[str, str] | None:
        """Measure `Backend.latest_once`."""
        return await self._measure("latest_once", self._backend.latest_once(prefix))

    async def forget_once(self, prefix: str, before: str, limit: int) -> int:
        """Measure `Backend.forget_once`."""
        return await self._measure("forget_once", self._backend.forget_once(prefix, before, limit))

    async def settings(self, prefix: str) -> dict[str, str]:
        """Measure `Backend.settings`."""
        return await self._measure("settings", self._backend.settings(prefix))

    async def put_setting(self, key: str, value: str | None) -> None:
        """Measure `Backend.put_setting`."""
        await self._measure("put_setting", self._backend.put_setting(key, value))

    async def swap_settings(self, expected: Mapping[str, str | None], changes: Mapping[str, str | None]) -> bool:
        """Measure `Backend.swap_settings`."""
        return await self._measure("swap_settings", self._backend.swap_settings(expected, changes))
