"""The routes that act on many tasks at once: by their ids, or by the filters of the list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from taskflow_otel.errors import TaskflowError
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import FINISHED_STATUSES, LIVE_STATUSES, TaskStatus
from taskflow_otel.runtime.clock import SYSTEM_CLOCK
from taskflow_otel.web.audit import REASON, AuditLog
from taskflow_otel.web.auth import Scope
from taskflow_otel.web.guard import Guard
from taskflow_otel.web.params import MAX_PAGE, parse_moment, task_filter
from taskflow_otel.web.ports import TaskEngine
from taskflow_otel.web.routing import errors
from taskflow_otel.web.selection import Selection, matching, named_or_matching, statuses_of
from taskflow_otel.wire.bodies import (
    BulkCancelOut,
    BulkRetryOut,
    DeletedOut,
    RetriedOut,
    SkippedOut,
    TaskIdsIn,
)

# In the order of the enumeration, so that repeated requests select alike.
_RETRYABLE = [status for status in TaskStatus if status in FINISHED_STATUSES and status is not TaskStatus.SUCCESS]
_CANCELLABLE = [status for status in TaskStatus if status in LIVE_STATUSES]

_Filter = Annotated[TaskQuery, Depends(task_filter)]
_Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="The most tasks to act on.")]
_DryRun = Annotated[bool, Query(description="Change nothing: only count the tasks that are selected.")]


def add_bulk_routes(router: APIRouter, engine: TaskEngine, guard: Guard, audit: AuditLog) -> None:
    """Retry and cancel many tasks, and delete finished ones."""
    may_retry, may_cancel = Depends(guard.acting(Scope.RETRY)), Depends(guard.acting(Scope.CANCEL))
    may_delete = Depends(guard.acting(Scope.HISTORY))

    async def retry(request: Request, selected: Selection, *, dry_run: bool) -> BulkRetryOut:
        out = BulkRetryOut(retried=[], skipped=[], more=selected.more, matched=len(selected.ids), dry_run=dry_run)
        if dry_run:
            audit.nothing_changed(request)
        else:
            await _retry_all(engine, selected.ids, out)
            audit.note(request, target=_target(request, selected), detail=f"retried {len(out.retried)}")
        return out

    @router.post(
        "/bulk-retry",
        status_code=202,
        dependencies=[may_retry, REASON],
        responses=errors(400, 403, 413, 422),
        summary="Retry tasks",
    )
    async def bulk_retry(
        request: Request,
        found: _Filter,
        body: TaskIdsIn | None = None,
        limit: _Limit = MAX_PAGE,
        dry_run: _DryRun = False,
    ) -> BulkRetryOut:
        """Retry the tasks with these ids, or those that the filter matches; give one of the two.

        A filter selects tasks that failed, were cancelled, interrupted or rejected, and were not retried yet. Tasks
        whose state does not allow a retry are skipped with the reason.
        """
        ids = body.task_ids if body else None
        selected = await named_or_matching(engine, ids, found, _RETRYABLE, limit, _not_retried)
        return await retry(request, selected, dry_run=dry_run)

    @router.post(
        "/retry-failed",
        status_code=202,
        dependencies=[may_retry, REASON],
        responses=errors(403, 422),
        summary="Retry failed tasks",
    )
    async def retry_failed(
        request: Request,
        found: _Filter,
        limit: _Limit = MAX_PAGE,
        dry_run: _DryRun = False,
    ) -> BulkRetryOut:
        """Retry the failed tasks that match (`?since=6h`) and were not retried yet, newest first."""
        statuses = statuses_of(found, [TaskStatus.FAILED])
        selected = await matching(engine, found, statuses, limit, _not_retried)
        return await retry(request, selected, dry_run=dry_run)

    @router.post(
        "/bulk-cancel",
        status_code=202,
        dependencies=[may_cancel, REASON],
        responses=errors(400, 403, 413, 422),
        summary="Cancel live tasks",
    )
    async def bulk_cancel(
        request: Request,
        found: _Filter,
        body: TaskIdsIn | None = None,
        limit: _Limit = MAX_PAGE,
        dry_run: _DryRun = False,
    ) -> BulkCancelOut:
        """Cancel the tasks with these ids, or the live ones that the filter matches; give one of the two.

        Tasks that have finished are skipped with the reason.
        """
        ids = body.task_ids if body else None
        selected = await named_or_matching(engine, ids, found, _CANCELLABLE, limit)
        out = BulkCancelOut(cancelled=[], skipped=[], more=selected.more, matched=len(selected.ids), dry_run=dry_run)
        if dry_run:
            audit.nothing_changed(request)
        else:
            await _cancel_all(engine, selected.ids, out)
            audit.note(request, target=_target(request, selected), detail=f"cancelled {len(out.cancelled)}")
        return out

    @router.delete(
        "/history",
        dependencies=[may_delete, REASON],
        responses=errors(403, 422),
        summary="Delete finished tasks",
    )
    async def delete_history(
        request: Request,
        before: Annotated[
            str | None,
            Query(description="Ended before: an ISO 8601 time, or an age (`7d`). Default: all finished tasks."),
        ] = None,
    ) -> DeletedOut:
        """Delete finished tasks and their logs permanently."""
        now = SYSTEM_CLOCK.now()
        deleted = await engine.cleaner.delete(parse_moment("before", before, now) if before else now)
        audit.note(request, target=before or "all", detail=f"deleted {deleted}")
        return DeletedOut(deleted=deleted)


def _not_retried(record: TaskRecord) -> bool:
    return record.retried_by is None


def _target(request: Request, selected: Selection) -> str:
    return request.url.query or f"{len(selected.ids)} tasks"


async def _retry_all(engine: TaskEngine, ids: Sequence[str], out: BulkRetryOut) -> None:
    for task_id, result in (await engine.retries.retry_all(ids)).items():
        if isinstance(result, TaskflowError):
            out.skipped.append(SkippedOut(task_id=task_id, reason=str(result)))
        else:
            out.retried.append(RetriedOut(task_id=task_id, new_task_id=result.task_id))


async def _cancel_all(engine: TaskEngine, ids: Sequence[str], out: BulkCancelOut) -> None:
    for task_id in ids:
        try:
            await engine.control.cancel(task_id)
        except TaskflowError as exc:
            # A task that cannot be cancelled must not hide the ones that were.
            out.skipped.append(SkippedOut(task_id=task_id, reason=str(exc)))
        else:
            out.cancelled.append(task_id)
