"""`retry`, `cancel` and `purge` on a backend: stored for the instances that share it, and carried out by one of them.

The command is no instance. It owns no task and changes no state of one, so fencing, limits and telemetry are those of
the instance that does the work. What it stores is the bulk operation that the API would store.
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from msgspec.structs import replace

from taskflow_otel.backends.admin import AuditStore, KeepsAudit, KeepsOperations, OperationStore
from taskflow_otel.cli.ledger import Ledger, query_of, understood
from taskflow_otel.engine.admin.audit_trail import made_plain
from taskflow_otel.engine.admin.run import Fenced, OperationRun
from taskflow_otel.engine.admin.work import DeleteWork, refused
from taskflow_otel.engine.control import finished_already
from taskflow_otel.engine.retries import finished_original
from taskflow_otel.errors import ConfigurationError, OperationNotFoundError, TaskflowError, TaskNotFoundError
from taskflow_otel.model.audit import AuditEntry
from taskflow_otel.model.ids import new_task_id
from taskflow_otel.model.operation import Operation, OperationItem, Selection
from taskflow_otel.model.plain import plain_text
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import AuditOutcome, InstanceState, OperationKind, OperationStatus
from taskflow_otel.runtime.clock import SYSTEM_CLOCK
from taskflow_otel.runtime.identity import host_identity, new_instance_id, process_gone
from taskflow_otel.web.params import COUNT_LIMIT, parse_moment
from taskflow_otel.web.selection import counted, selected, statuses_of
from taskflow_otel.wire.bulk import DeletedOut, OperationOut

METHOD = "command"
"""The `method` of its entries in the audit: how the user was known."""
_ACTIONS = {
    OperationKind.RETRY: ("retry", "bulk-retry"),
    OperationKind.CANCEL: ("cancel", "bulk-cancel"),
    OperationKind.DELETE: ("purge", "delete-history"),
}
"""The name of the command, and that of the same action in the API."""
_AT_ONCE = 500
_LONGEST_NAME, _LONGEST_REASON = 200, 1_000
_PATIENCE = 15.0
"""Seconds without any progress after which the command no longer waits for an instance."""
_POLL = 0.2

Progress = Callable[[int, int | None], None]
"""Called with how many tasks have a result, and of how many."""


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for, how far it is, and the result for each task in the order of its ids."""

    items: list[OperationItem]
    operation: Operation | None
    """`None` if nothing had to be stored: each task was refused."""
    anyone: bool
    """Whether an instance runs that can carry it out."""

    @property
    def waits(self) -> bool:
        """Whether it has not been carried out yet."""
        return self.operation is not None and self.operation.ended_at is None


class Orders(Ledger):
    """Stores what a person wants done with tasks of a backend; open it with `with`.

    An instance that runs does it within about a second, else the next one that starts. Only the deletion of finished
    tasks needs no instance: without one, it is done here.
    """

    @property
    def _operations(self) -> OperationStore:
        assert isinstance(self._backend, KeepsOperations)
        return self._backend.operation_store

    @property
    def _audit(self) -> AuditStore:
        assert isinstance(self._backend, KeepsAudit)
        return self._backend.audit_store

    def carry_out(
        self, kind: OperationKind, task_ids: Sequence[str], reason: str | None, progress: Progress = lambda *_: None
    ) -> Order:
        """Have tasks retried or cancelled, and wait for the results as long as an instance makes progress.

        Tasks whose state does not allow it are refused at once. Raises `BackendError`.
        """
        return self._runner.run(self._carry_out(kind, list(dict.fromkeys(task_ids)), reason, progress))

    def delete_history(
        self, *, before: str, dry_run: bool | None = None, reason: str | None = None, **filters: Any
    ) -> DeletedOut:
        """Delete the finished tasks that match, as the route of the API does. Raises `BackendError`."""
        query = query_of(filters)
        with understood():
            statuses = statuses_of(query, [status for status in TaskStatus if status.finished])
            selection = selected(query, statuses, None, parse_moment("before", before, SYSTEM_CLOCK.now())).selection
        assert selection is not None
        if dry_run:
            matched, more = self._runner.run(counted(self._backend.page, selection, COUNT_LIMIT, lambda _: True))
            return DeletedOut(deleted=0, matched=matched, more=more, dry_run=True)
        operation = self._runner.run(self._delete(selection, urlencode({**filters, "before": before}), reason))
        return DeletedOut(
            deleted=operation.succeeded,
            matched=operation.total,
            more=False,
            dry_run=False,
            operation_id=operation.operation_id,
            status=operation.status,
        )

    def get_operation(self, operation_id: str) -> OperationOut:
        """How far an operation is; raises `OperationNotFoundError`."""
        return OperationOut.model_validate(self._runner.run(self._found(operation_id)))

    async def _carry_out(
        self, kind: OperationKind, task_ids: Sequence[str], reason: str | None, progress: Progress
    ) -> Order:
        results = await self._refusals(kind, task_ids)
        wanted = [task_id for task_id in task_ids if task_id not in results]
        anyone, operation = await self._anyone(), None
        if wanted:
            operation = await self._stored(kind, wanted, reason)
            if anyone:
                operation = await self._settled(operation, progress)
            results |= {item.task_id: item for item in await self._items(operation)}
        else:
            await self._note(kind, None, f"{len(task_ids)} tasks", reason)
        return Order([results[task_id] for task_id in task_ids], operation, anyone)

    async def _refusals(self, kind: OperationKind, task_ids: Sequence[str]) -> dict[str, OperationItem]:
        """Those of these tasks whose state does not allow it, with why."""
        found: dict[str, OperationItem] = {}
        for start in range(0, len(task_ids), _AT_ONCE):
            some = task_ids[start : start + _AT_ONCE]
            known = await self._backend.get_all(some)
            for task_id in some:
                try:
                    _check(kind, task_id, known.get(task_id))
                except TaskflowError as why:
                    found[task_id] = refused(OperationItem(seq=0, task_id=task_id), why)
        return found

    async def _stored(self, kind: OperationKind, task_ids: Sequence[str], reason: str | None) -> Operation:
        """The operation, from when the instances may carry it out."""
        operation = await self._begun(kind, reason, named=len(task_ids))
        for start in range(0, len(task_ids), _AT_ONCE):
            some = task_ids[start : start + _AT_ONCE]
            items = [OperationItem(seq=start + n, task_id=task_id) for n, task_id in enumerate(some)]
            operation = await self._saved(replace(operation, total=start + len(some)), items)
        # In this order: nothing is done that the audit does not have.
        await self._note(kind, operation, f"{len(task_ids)} tasks", reason)
        if kind is OperationKind.CANCEL:
            # An instance that starts takes the tasks over before it reads operations; these marks hold then already.
            for task_id in task_ids:
                await self._backend.request_cancel(task_id)
        return await self._saved(replace(operation, begun=True))

    async def _delete(self, selection: Selection, asked: str, reason: str | None) -> Operation:
        operation = await self._begun(OperationKind.DELETE, reason, selection=selection, asked=asked)
        await self._note(OperationKind.DELETE, operation, asked, reason)
        operation = await self._saved(replace(operation, begun=True))
        if not await self._anyone():
            claimed = await self._operations.claim(operation.operation_id, operation.token, new_instance_id())
            if claimed is not None:
                work = DeleteWork(self._backend.delete_tasks, self._backend)
                run = OperationRun(claimed, self._operations, work, self._backend, SYSTEM_CLOCK, repeated=False)
                # Fenced: an instance has started, and continues it.
                with suppress(Fenced):
                    await run.finish()
                    return run.operation
        return await self._settled(operation, lambda *_: None)

    async def _begun(
        self,
        kind: OperationKind,
        reason: str | None,
        *,
        named: int = 0,
        selection: Selection | None = None,
        asked: str | None = None,
    ) -> Operation:
        """A new operation that nobody owns, and of which nothing is done yet."""
        return await self._operations.begin(
            Operation(
                operation_id=new_task_id(),
                kind=kind.value,
                status=OperationStatus.RUNNING.value,
                created_at=SYSTEM_CLOCK.now(),
                owner=None,
                actor=_user(),
                reason=None if reason is None else plain_text(reason, _LONGEST_REASON),
                filter=asked,
                selection=selection,
                named=named,
            )
        )

    async def _saved(self, operation: Operation, items: Sequence[OperationItem] = ()) -> Operation:
        if not await self._operations.save(operation, items):
            raise ConfigurationError(
                f"operation {operation.operation_id} was not stored within a minute, so an instance has dropped it: "
                "repeat the command"
            )
        return operation

    async def _settled(self, operation: Operation, progress: Progress) -> Operation:
        """The operation once it has ended, or has made no progress for `_PATIENCE` seconds."""
        since = SYSTEM_CLOCK.monotonic()
        while operation.ended_at is None and SYSTEM_CLOCK.monotonic() - since < _PATIENCE:
            await SYSTEM_CLOCK.sleep(_POLL)
            found = await self._found(operation.operation_id)
            progress(found.done, found.total)
            if found != operation:
                operation, since = found, SYSTEM_CLOCK.monotonic()
        return operation

    async def _found(self, operation_id: str) -> Operation:
        found = await self._operations.get(operation_id)
        if found is None:
            raise OperationNotFoundError(operation_id)
        return found

    async def _items(self, operation: Operation) -> list[OperationItem]:
        found: list[OperationItem] = []
        while some := await self._operations.items(operation.operation_id, len(found), _AT_ONCE):
            found += some
        return found

    async def _anyone(self) -> bool:
        """Whether an instance runs, as far as this process can see."""
        now, host = SYSTEM_CLOCK.now(), host_identity()
        return any(
            one.state == InstanceState.ALIVE
            and (now - one.heartbeat_at).total_seconds() < one.lease_seconds
            and not process_gone(one, host)
            for one in await self._backend.instances()
        )

    async def _note(self, kind: OperationKind, operation: Operation | None, target: str, reason: str | None) -> None:
        """Write into the audit what was asked for; without an operation, it was refused."""
        command, action = _ACTIONS[kind]
        entry = AuditEntry(
            entry_id=new_task_id(),
            at=SYSTEM_CLOCK.now(),
            actor=_user(),
            method=METHOD,
            client=socket.gethostname(),
            action=action,
            route=f"taskflow-otel {command} --backend",
            outcome=(AuditOutcome.REFUSED if operation is None else AuditOutcome.DONE).value,
            status=409 if operation is None else 202,
            target=target,
            operation_id=None if operation is None else operation.operation_id,
            reason=reason,
            detail="no task was in a state for it" if operation is None else "stored for the instances",
        )
        await self._audit.add([made_plain(entry)])


def _check(kind: OperationKind, task_id: str, record: TaskRecord | None) -> None:
    """Raise why nothing can be done with a task as it is now."""
    if kind is OperationKind.RETRY:
        finished_original(task_id, record)
    elif record is None:
        raise TaskNotFoundError(task_id)
    elif record.status.finished:
        raise finished_already(record)


def _user() -> str | None:
    """The name of the account; `None` where accounts have no names, as in some containers."""
    try:
        return plain_text(getpass.getuser(), _LONGEST_NAME)
    except (OSError, KeyError, ImportError):
        return None
