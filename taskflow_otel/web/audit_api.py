"""The route that shows the audit: who did what, on all instances."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from taskflow_otel.model.audit import AuditCursor, AuditEntry, AuditQuery
from taskflow_otel.model.vocabulary import AuditOutcome
from taskflow_otel.runtime.clock import SYSTEM_CLOCK
from taskflow_otel.web.guard import Guard
from taskflow_otel.web.params import MAX_PAGE, Absent, parse_moment
from taskflow_otel.web.ports import TaskEngine
from taskflow_otel.web.refusals import InvalidInput, is_storable
from taskflow_otel.web.routing import NEXT_PAGE, link_next
from taskflow_otel.wire.audit import AuditOut

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CURSOR = re.compile(r"(\d{1,16})\.([0-9a-f-]{36})")


def add_audit_routes(router: APIRouter, engine: TaskEngine, guard: Guard) -> None:
    """The audit, page by page."""

    @router.get(
        "/audit",
        dependencies=[Depends(guard.viewer)],
        responses={200: {"headers": NEXT_PAGE}},
        summary="Who did what",
    )
    async def list_audit(
        request: Request,
        response: Response,
        found: Annotated[AuditQuery, Depends(_audit_filter)],
    ) -> list[AuditOut]:
        """The actions on all instances that share the backend, the newest first, refused ones included."""
        page = await engine.audit.page(found)
        if page.next_cursor is not None:
            link_next(request, response, _written(page.next_cursor))
        return [audit_out(entry) for entry in page.entries]


def audit_out(entry: AuditEntry) -> AuditOut:
    """One entry."""
    return AuditOut.model_validate(entry)


def _audit_filter(
    actor: Annotated[str | Absent, Query(description="Only actions of this user.")] = None,
    action: Annotated[str | Absent, Query(description="Only this action, such as `retry-task`.")] = None,
    outcome: Annotated[AuditOutcome | None, Query(description="Only actions that ended so.")] = None,
    since: Annotated[str | Absent, Query(description="At or after: an ISO 8601 time, or an age (`6h`).")] = None,
    until: Annotated[str | Absent, Query(description="Before: an ISO 8601 time, or an age (`6h`).")] = None,
    task_id: Annotated[str | Absent, Query(description="Only actions on this task, bulk operations included.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Entries on a page.")] = 100,
    cursor: Annotated[str | Absent, Query(description="`X-Next-Cursor` of the previous page.")] = None,
) -> AuditQuery:
    for name, value in (("actor", actor), ("action", action), ("task_id", task_id)):
        if value is not None and not is_storable(value):
            raise InvalidInput(name, f"{name} must not contain a NUL character")
    now = SYSTEM_CLOCK.now()
    return AuditQuery(
        actor=actor,
        action=action,
        outcome=outcome and outcome.value,
        since=None if since is None else parse_moment("since", since, now),
        until=None if until is None else parse_moment("until", until, now),
        task_id=task_id,
        limit=limit,
        cursor=None if cursor is None else _read(cursor),
    )


def _written(cursor: AuditCursor) -> str:
    return f"{(cursor.at - _EPOCH) // timedelta(microseconds=1)}.{cursor.entry_id}"


def _read(text: str) -> AuditCursor:
    if (found := _CURSOR.fullmatch(text)) is None:
        raise InvalidInput("cursor", f"cursor must be the X-Next-Cursor of an earlier answer, not {text!r}")
    return AuditCursor(_EPOCH + timedelta(microseconds=int(found[1])), found[2])
