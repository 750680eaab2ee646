"""The routes that act on many tasks at once: by their ids, or by the filters of the list.

Each request becomes a bulk operation, which is stored before anything is done. Small ones are answered with their
results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from taskflow_otel.model.operation import Operation, OperationItem, Order
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import FINISHED_STATUSES, LIVE_STATUSES, TaskStatus
from taskflow_otel.model.vocabulary import ItemOutcome, OperationKind
from taskflow_otel.runtime.clock import SYSTEM_CLOCK
from taskflow_otel.web.audit import REASON, AuditLog
from taskflow_otel.web.auth import Scope
from taskflow_otel.web.entrance import actor_of, allowed_parameters
from taskflow_otel.web.guard import Guard
from taskflow_otel.web.params import COUNT_LIMIT, MAX_PAGE, Absent, parse_moment, task_filter
from taskflow_otel.web.ports import TaskEngine
from taskflow_otel.web.selection import Wanted, counted, named_or_selected, selected, statuses_of
from taskflow_otel.wire.bulk import BulkCancelOut, BulkRetryOut, DeletedOut, RetriedOut, SkippedOut, TaskIdsIn

# In the order of the enumeration, so that repeated requests select alike.
_FINISHED = [status for status in TaskStatus if status in FINISHED_STATUSES]
_RETRYABLE = [status for status in _FINISHED if status is not TaskStatus.SUCCESS]
_CANCELLABLE = [status for status in TaskStatus if status in LIVE_STATUSES]

_DIRECT = 1_000
"""The most tasks of an operation that is answered with its results."""
_PATIENCE = 10.0
"""Seconds to wait for these results."""
_MOST = 100_000
"""The most tasks of an operation with a limit."""

_Filter = Annotated[TaskQuery, Depends(task_filter)]
_Limit = Annotated[int, Query(ge=1, le=_MOST, description="The most tasks to act on.")]
_DryRun = Annotated[
    bool,
    Query(description="Change nothing: only count the tasks that would be acted on, and say which would be skipped."),
]
_Key = Annotated[
    str | Absent,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="Of all requests of one user to this administration with the same key, the first one is carried "
        "out, and its operation answers all of them.",
    ),
]
_LOCATION = {"Location": {"description": "The operation.", "schema": {"type": "string"}}}


def add_bulk_routes(router: APIRouter, engine: TaskEngine, guard: Guard, audit: AuditLog, home: str) -> None:
    """Retry and cancel many tasks, and delete finished ones. `home` is the path of the administration."""
    may_retry, may_cancel = Depends(guard.acting(Scope.RETRY)), Depends(guard.acting(Scope.CANCEL))
    may_delete = Depends(guard.acting(Scope.HISTORY))

    async def counting(
        request: Request, kind: OperationKind, wanted: Wanted, wants: Callable[[TaskRecord], bool]
    ) -> tuple[int, list[SkippedOut], bool]:
        """How many tasks would be acted on, which named ones would be skipped, and whether there are more."""
        audit.nothing_changed(request)
        if wanted.selection is None:
            items = await engine.operations.preview(kind, wanted.task_ids)
            return sum(map(_done, items)), _skipped(items), False
        matched, more = await counted(engine.lookup.page, wanted.selection, max(COUNT_LIMIT, MAX_PAGE), wants)
        return matched, [], more

    async def carry_out(
        request: Request, response: Response, kind: OperationKind, wanted: Wanted, key: str | None
    ) -> tuple[Operation, list[OperationItem]]:
        """Begin an operation, and wait for its results if it is small; without these, they are empty."""
        begun = await engine.operations.begin(_order(request, home, kind, wanted, key))
        audit.note(request, operation_id=begun.operation_id, target=begun.filter or f"{begun.named} tasks")
        operation = await engine.operations.wait(begun.operation_id, _PATIENCE, _DIRECT)
        audit.note(request, detail=f"{operation.status}: {operation.succeeded} of {operation.total} tasks done")
        # Relative, so that it works behind any proxy.
        response.headers["Location"] = f"operations/{operation.operation_id}"
        if operation.ended_at is None or operation.total > _DIRECT:
            return operation, []
        return operation, await engine.operations.items(operation.operation_id, 0, _DIRECT)

    async def retry(
        request: Request, response: Response, wanted: Wanted, key: str | None, *, dry_run: bool
    ) -> BulkRetryOut:
        if dry_run:
            matched, skipped, more = await counting(request, OperationKind.RETRY, wanted, _not_retried)
            return BulkRetryOut(retried=[], skipped=skipped, more=more, matched=matched, dry_run=True)
        operation, items = await carry_out(request, response, OperationKind.RETRY, wanted, key)
        return BulkRetryOut(
            retried=[
                RetriedOut(task_id=item.task_id, new_task_id=item.new_task_id or "") for item in items if _done(item)
            ],
            skipped=_skipped(items, operation.error),
            more=_more(operation),
            matched=operation.total,
            dry_run=False,
            operation_id=operation.operation_id,
            status=operation.status,
        )

    @router.post(
        "/bulk-retry",
        status_code=202,
        dependencies=[may_retry, REASON],
        responses={202: {"headers": _LOCATION}},
        summary="Retry tasks",
    )
    async def bulk_retry(
        request: Request,
        response: Response,
        found: _Filter,
        body: TaskIdsIn | None = None,
        limit: _Limit = MAX_PAGE,
        dry_run: _DryRun = False,
        key: _Key = None,
    ) -> BulkRetryOut:
        """Retry the tasks with these ids, or those that the filter matches; give one of the two.

        A filter selects tasks that failed, were cancelled, interrupted or rejected, and were not retried yet. Tasks
        whose state does not allow a retry, and those that were retried already, are skipped with the reason.

        The answer has the results of up to 1,000 tasks. More are worked off in the background (`status` is `running`),
        and `/operations/{operation_id}` has the results.
        """
        wanted = named_or_selected(body.task_ids if body else None, found, _RETRYABLE, limit)
        return await retry(request, response, wanted, key, dry_run=dry_run)

    @router.post(
        "/retry-failed",
        status_code=202,
        dependencies=[may_retry, REASON],
        responses={202: {"headers": _LOCATION}},
        summary="Retry failed tasks",
    )
    async def retry_failed(
        request: Request,
        response: Response,
        found: _Filter,
        limit: _Limit = MAX_PAGE,
        dry_run: _DryRun = False,
        key: _Key = None,
    ) -> BulkRetryOut:
        """Retry the failed tasks that match (`?since=6h`) and were not retried yet, newest first.

        The answer is that of `/bulk-retry`.
        """
        wanted = selected(found, statuses_of(found, [TaskStatus.FAILED]), limit)
        return await retry(request, response, wanted, key, dry_run=dry_run)

    @router.post(
        "/bulk-cancel",
        status_code=202,
        dependencies=[may_cancel, REASON],
        responses={202: {"headers": _LOCATION}},
        summary="Cancel live tasks",
    )
    async def bulk_cancel(
        request: Request,
        response: Response,
        found: _Filter,
        body: TaskIdsIn | None = None,
        limit: _Limit = MAX_PAGE,
        dry_run: _DryRun = False,
        key: _Key = None,
    ) -> BulkCancelOut:
        """Cancel the tasks with these ids, or the live ones that the filter matches; give one of the two.

        Tasks that have finished are skipped with the reason. The answer has the results of up to 1,000 tasks, as that
        of `/bulk-retry`.
        """
        wanted = named_or_selected(body.task_ids if body else None, found, _CANCELLABLE, limit)
        if dry_run:
            matched, skipped, more = await counting(request, OperationKind.CANCEL, wanted, _any)
            return BulkCancelOut(cancelled=[], skipped=skipped, more=more, matched=matched, dry_run=True)
        operation, items = await carry_out(request, response, OperationKind.CANCEL, wanted, key)
        return BulkCancelOut(
            cancelled=[item.task_id for item in items if _done(item)],
            skipped=_skipped(items, operation.error),
            more=_more(operation),
            matched=operation.total,
            dry_run=False,
            operation_id=operation.operation_id,
            status=operation.status,
        )

    @router.delete(
        "/history",
        dependencies=[may_delete, REASON],
        responses={
            200: {"headers": _LOCATION},
            202: {"model": DeletedOut, "description": "It is still being deleted.", "headers": _LOCATION},
        },
        summary="Delete finished tasks",
    )
    async def delete_history(
        request: Request,
        response: Response,
        found: _Filter,
        before: Annotated[
            str | Absent,
            Query(description="Ended before: an ISO 8601 time, or an age (`7d`). Default: all finished tasks."),
        ] = None,
        limit: Annotated[
            int | Absent, Query(ge=1, le=_MOST, description="The most tasks to delete. Default: all.")
        ] = None,
        dry_run: _DryRun = False,
        key: _Key = None,
    ) -> DeletedOut:
        """Delete the finished tasks that match and their logs, permanently.

        More than 1,000 tasks are deleted in the background: the answer is 202, and `/operations/{operation_id}` shows
        how far it is.
        """
        now = SYSTEM_CLOCK.now()
        ended = parse_moment("before", before, now) if before else now
        wanted = selected(found, statuses_of(found, _FINISHED), limit, ended)
        if dry_run:
            matched, _, more = await counting(request, OperationKind.DELETE, wanted, _any)
            return DeletedOut(deleted=0, matched=matched, more=more, dry_run=True)
        operation, _ = await carry_out(request, response, OperationKind.DELETE, wanted, key)
        if operation.ended_at is None:
            response.status_code = 202
        return DeletedOut(
            deleted=operation.succeeded,
            matched=operation.total,
            more=_more(operation),
            dry_run=False,
            operation_id=operation.operation_id,
            status=operation.status,
        )


def _order(request: Request, home: str, kind: OperationKind, wanted: Wanted, key: str | None) -> Order:
    actor = actor_of(request)
    # Without the parameters of the sign-in, which can be secrets: everybody who may look sees what is stored here.
    others = {"reason", *allowed_parameters(request)}
    given = [pair for pair in request.query_params.multi_items() if pair[0] not in others]
    return Order(
        kind=kind,
        task_ids=wanted.task_ids,
        selection=wanted.selection,
        actor=actor.name if actor else None,
        reason=request.query_params.get("reason"),
        filter=urlencode(given) if wanted.selection else None,
        # Each user of each administration has keys of their own: a stranger's operation must not answer.
        key=None if key is None else _digest([home, actor and actor.via, actor and actor.name, key]),
        request=_digest([kind, sorted(given), list(wanted.task_ids)]),
    )


def _digest(parts: list[object]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _done(item: OperationItem) -> bool:
    return item.outcome == ItemOutcome.DONE


def _skipped(items: list[OperationItem], error: str | None = None) -> list[SkippedOut]:
    # Without a detail, the operation ended before it came to this task.
    rest = f"not done: {error or 'the operation has ended early'}"
    return [SkippedOut(task_id=item.task_id, reason=item.detail or rest) for item in items if not _done(item)]


def _more(operation: Operation) -> bool:
    return operation.selection is not None and operation.selection.more


def _not_retried(record: TaskRecord) -> bool:
    return record.retried_by is None


def _any(_: TaskRecord) -> bool:
    return True
