"""Bulk operations: stored first, then worked off here, or by another instance if this one ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta

from msgspec.structs import replace

from taskflow_otel.backends.admin import OperationStore
from taskflow_otel.engine.admin.run import Fenced, OperationRun
from taskflow_otel.engine.admin.work import Work, refused
from taskflow_otel.engine.life import Life, at_home
from taskflow_otel.engine.lookup import Lookup
from taskflow_otel.engine.membership import Membership
from taskflow_otel.errors import BackendError, KeyReusedError, NotStartedError, OperationNotFoundError
from taskflow_otel.model.ids import new_task_id
from taskflow_otel.model.operation import Operation, OperationItem, OperationQuery, Order
from taskflow_otel.model.query import Instance
from taskflow_otel.model.vocabulary import InstanceState, ItemOutcome, OperationKind, OperationStatus
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.owned_tasks import OwnedTasks
from taskflow_otel.runtime.service import Service

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")

_LOOKED_AT = 100
"""Unfinished operations that one round looks at."""
_AT_ONCE = 8
"""Operations that one process works off at once."""
_STORING = timedelta(minutes=1)
"""How long a request may take to be stored completely."""
_RELEASE = 1.0
"""Seconds for the release of the operations at a stop."""


class Operations(Service):
    """Takes bulk operations, works them off, and takes over those of instances that have ended.

    `instances` reads the instances that share the backend.
    """

    def __init__(
        self,
        store: OperationStore,
        works: Mapping[str, Work],
        lookup: Lookup,
        clock: Clock,
        interval: float,
        membership: Membership,
        instances: Callable[[], Awaitable[list[Instance]]],
        life: Life,
    ) -> None:
        super().__init__("operations", interval, clock)
        self._store = store
        self._works = works
        self._lookup = lookup
        self._clock = clock
        self._membership = membership
        self._instances = instances
        self.life = life
        self._runs: dict[str, OperationRun] = {}
        """The operations that this process works off, or is storing."""
        self._tasks = OwnedTasks(_log_error)
        self._places = asyncio.Semaphore(_AT_ONCE)

    @at_home
    async def begin(self, order: Order) -> Operation:
        """Store an operation, and begin to work it off; if its key is known, return the earlier operation.

        Raises `NotStartedError`, `KeyReusedError` if the key belongs to another request, and `BackendError`.
        """
        self.life.require_running()
        operation = Operation(
            operation_id=new_task_id(),
            kind=order.kind.value,
            status=OperationStatus.RUNNING.value,
            created_at=self._clock.now(),
            owner=self._membership.instance.instance_id,
            actor=order.actor,
            reason=order.reason,
            filter=order.filter,
            selection=order.selection,
            named=len(order.task_ids),
            key=order.key,
            request=order.request,
        )
        run = self._run_of(operation, repeated=False)
        # Before it is stored: no round of this process may take it for one that was left behind.
        self._runs[operation.operation_id] = run
        try:
            stored = await self._store.begin(operation)
            if stored.operation_id != operation.operation_id:
                del self._runs[operation.operation_id]
                if stored.request != operation.request:
                    raise KeyReusedError
                again = await self._continued(stored)
                if again is None:
                    return stored
                run = again
            await run.name_tasks(order.task_ids)
        except Fenced:
            # The same request has come to another process too, which has taken over the storing.
            self._runs.pop(run.operation.operation_id, None)
            return await self.get(run.operation.operation_id)
        except BaseException:
            self._runs.pop(run.operation.operation_id, None)
            raise
        self._tasks.own(self._finish(run))
        return run.operation

    @at_home
    async def preview(self, kind: OperationKind, task_ids: Sequence[str]) -> list[OperationItem]:
        """What an operation on these tasks would do as they are now, as the items of its record; changes nothing.

        Raises `NotStartedError` and `BackendError`.
        """
        self.life.require_running()
        work, items = self._works[kind.value], []
        for start in range(0, len(task_ids), work.slice):
            some = task_ids[start : start + work.slice]
            records = await self._lookup.get_all(some)
            for seq, task_id in enumerate(some, start):
                item, why = OperationItem(seq=seq, task_id=task_id), await work.refusal(task_id, records.get(task_id))
                items.append(replace(item, outcome=ItemOutcome.DONE.value) if why is None else refused(item, why))
        return items

    @at_home
    async def wait(self, operation_id: str, timeout: float, most: int) -> Operation:
        """Return an operation once it has ended or has more than `most` tasks, at the latest after `timeout` seconds.

        One that another instance works off is returned at once. Raises `OperationNotFoundError`.
        """
        run = self._runs.get(operation_id)
        if run is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await run.until(lambda operation: max(operation.total, operation.named) > most)
            return run.operation
        return await self.get(operation_id)

    @at_home
    async def get(self, operation_id: str) -> Operation:
        """One operation; raises `OperationNotFoundError`."""
        found = await self._store.get(operation_id)
        if found is None:
            raise OperationNotFoundError(operation_id)
        return found

    @at_home
    async def page(self, query: OperationQuery) -> list[Operation]:
        """Operations, newest first."""
        return await self._store.page(query)

    @at_home
    async def items(self, operation_id: str, first: int, limit: int) -> list[OperationItem]:
        """Items of an operation, from a position on."""
        return await self._store.items(operation_id, first, limit)

    async def start(self) -> None:
        """See `Service`."""
        self._places = asyncio.Semaphore(_AT_ONCE)
        await super().start()

    async def tick(self) -> None:
        """Work off what was left behind: by instances that have ended, or by this one in trouble."""
        oldest = self._clock.now() - _STORING
        left = [
            one
            for one in await self._store.unfinished(_LOOKED_AT)
            if one.operation_id not in self._runs and (one.begun or one.created_at < oldest)
        ]
        if not left:
            return
        own = self._membership.instance.instance_id
        alive = {one.instance_id for one in await self._instances() if one.state == InstanceState.ALIVE} - {own}
        for operation in left:
            if operation.owner not in alive:
                await self._take_over(operation, own)

    async def stop(self) -> None:
        """Stop; other instances take over at once what is not finished."""
        await super().stop()
        await self._tasks.stop()
        runs, self._runs = list(self._runs.values()), {}
        try:
            async with asyncio.timeout(_RELEASE):
                for run in runs:
                    with contextlib.suppress(Fenced):
                        await run.release()
        except (BackendError, TimeoutError) as exc:
            logger.warning("bulk operations are taken over once this instance counts as stopped: %s", exc)

    async def _continued(self, stored: Operation) -> OperationRun | None:
        """The run of an earlier request that was not stored completely, for its repetition to continue."""
        if stored.begun or stored.ended_at is not None or stored.operation_id in self._runs:
            return None
        claimed = await self._store.claim(stored.operation_id, stored.token, self._membership.instance.instance_id)
        if claimed is None:
            return None
        run = self._runs[stored.operation_id] = self._run_of(claimed, repeated=False)
        return run

    def _run_of(self, operation: Operation, *, repeated: bool) -> OperationRun:
        work = self._works[operation.kind]
        return OperationRun(operation, self._store, work, self._lookup, self._clock, repeated=repeated)

    async def _take_over(self, operation: Operation, own: str) -> None:
        claimed = await self._store.claim(operation.operation_id, operation.token, own)
        if claimed is None:
            return
        if operation.owner is not None:
            logger.warning("bulk operation %s of instance %s is taken over", operation.operation_id, operation.owner)
        run = self._runs[operation.operation_id] = self._run_of(claimed, repeated=True)
        self._tasks.own(self._finish(run))

    async def _finish(self, run: OperationRun) -> None:
        try:
            async with self._places:
                await run.finish()
        except Fenced:
            logger.warning("bulk operation %s belongs to another instance now", run.operation.operation_id)
        except NotStartedError:
            # The engine stops, and releases the operation.
            return
        except Exception as exc:
            logger.exception("bulk operation %s stopped at an unexpected error", run.operation.operation_id)
            with contextlib.suppress(Fenced, BackendError):
                await run.fail(f"an unexpected error, which the log of the instance has: {type(exc).__name__}")
        self._runs.pop(run.operation.operation_id, None)


def _log_error(exc: BaseException) -> None:
    logger.error("a bulk operation stopped at an unexpected error: %s", exc, exc_info=exc)
