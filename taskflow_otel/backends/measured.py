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
from taskflow_otel.backends.pool import KeepsPool, PoolStore
from taskflow_otel.errors import BackendError
from taskflow_otel.model.query import Instance, TaskCounts, TaskPage, TaskQuery
from taskflow_otel.model.record import LogEntry, TaskRecord
from taskflow_otel.model.vocabulary import OperationOutcome
from taskflow_otel.runtime.clock import Clock

T = TypeVar("T")

_OK, _ERROR = OperationOutcome.OK.value, OperationOutcome.ERROR.value
_ABANDONED = 1.0
"""Seconds after which a cancelled operation counts as one without an answer, and not as one that nobody wanted."""


class MeasuredBackend:
    """Passes every operation on to `backend`.

    `observe` gets backend, operation, outcome and seconds of each, except of `open`, `close` and `apply`: the one
    writer measures its transactions itself.
    """

    def __init__(self, backend: Backend, clock: Clock, observe: Callable[[str, str, str, float], None]) -> None:
        self._backend = backend
        self._clock = clock
        self._observe = observe
        self.name: str = backend.name
        self.durable: bool = backend.durable
        if isinstance(backend, KeepsAudit):
            # Only backends that keep an audit have this attribute; see `KeepsAudit`.
            self.audit_store: AuditStore = backend.audit_store
        if isinstance(backend, KeepsOperations):
            self.operation_store: OperationStore = backend.operation_store
        if isinstance(backend, KeepsFigures):
            self.figure_store: FigureStore = backend.figure_store
        if isinstance(backend, KeepsPool):
            self.pool_store: PoolStore = backend.pool_store
        self.failing: bool = False
        """Whether the latest measured operation got no answer."""

    async def open(self) -> None:
        """Open the backend."""
        await self._backend.open()
        self.failing = False

    async def close(self) -> None:
        """Close the backend."""
        await self._backend.close()

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        """Apply changes; not measured."""
        return await self._backend.apply(changes)

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

    async def _measure(self, operation: str, work: Awaitable[T]) -> T:
        began = self._clock.monotonic()
        outcome: str | None = _ERROR
        try:
            answer = await work
        except BackendError as exc:
            self.failing = self.failing or exc.transient
            raise
        except asyncio.CancelledError:
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
                self._observe(self.name, operation, outcome, self._clock.monotonic() - began)
