"""The routes about groups of failures."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query, Request

from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.vocabulary import FailureOrder
from taskflow_otel.runtime.clock import SYSTEM_CLOCK
from taskflow_otel.web.answers import arguments_text, causes_out, task_out
from taskflow_otel.web.audit import REASON, AuditLog
from taskflow_otel.web.auth import Scope
from taskflow_otel.web.entrance import actor_of
from taskflow_otel.web.failures import PROBLEMS, Slots, Wanted, Worklist
from taskflow_otel.web.guard import Guard
from taskflow_otel.web.ignored import Ignored, IgnoredGroups
from taskflow_otel.web.params import Absent, check_fingerprint, parse_until, task_filter
from taskflow_otel.web.ports import TaskEngine
from taskflow_otel.web.refusals import InvalidInput
from taskflow_otel.web.selection import statuses_of
from taskflow_otel.web.settings import WebSettings
from taskflow_otel.wire.failures import FailureDetailOut, FailureGroupOut, FailuresOut

_MOST = 200
_SAMPLES = 10
_DETAIL_POINTS = 48
_CURSOR = re.compile(r"[0-9]{1,20}-[0-9a-f]{16}")


def add_failure_routes(
    router: APIRouter, engine: TaskEngine, settings: WebSettings, guard: Guard, audit: AuditLog
) -> None:
    """List the groups, show one, and ignore it."""
    ignored = IgnoredGroups(engine.shared)
    worklist = Worklist(engine, ignored)
    viewer, may_act = Depends(guard.viewer), Depends(guard.acting(Scope.RETRY))
    shows_args = settings.display_func_args

    async def newest(fingerprint: str, limit: int) -> list[TaskRecord]:
        page = await engine.lookup.page(TaskQuery(fingerprint=fingerprint, limit=limit))
        return page.records

    async def one(fingerprint: str, slots: Slots) -> FailureGroupOut:
        """The group; answers 404 if no task is in it."""
        found = await worklist.group(check_fingerprint(fingerprint))
        about = {} if found is None else await worklist.about([found[0]])
        if found is None or fingerprint not in about:
            raise HTTPException(404, detail=f"no task that is stored ended with the failure {fingerprint}")
        points = await worklist.points([fingerprint], slots)
        hidden = await ignored.read(SYSTEM_CLOCK.now())
        return worklist.out(found[0], about[fingerprint], found[1], hidden, points.get(fingerprint, []))

    @router.get("/failures", dependencies=[viewer], summary="Failures, grouped")
    async def list_failures(
        found: Annotated[TaskQuery, Depends(task_filter)],
        order: Annotated[FailureOrder, Query(description="Which groups come first.")] = FailureOrder.LAST,
        show_ignored: Annotated[
            bool | Absent, Query(description="`true`: only the ignored groups; `false`: only the others.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=_MOST, description="Groups on a page.")] = 100,
        cursor: Annotated[str | Absent, Query(description="`next_cursor` of the previous page.")] = None,
    ) -> FailuresOut:
        """Groups of tasks that went wrong alike: those of one type whose errors and own frames are the same.

        Failed, interrupted and rejected tasks, or those of one of these states. Duplicates, and runs of a schedule that
        were left out because an earlier one had not ended, are no problems. `func_name`, `status`, `q`, `ended_since`
        and `ended_until` select groups, the last two those with a failure in this time; the numbers of a group are
        about all its tasks. With the other filters, groups are counted of the tasks that match alone.
        """
        statuses_of(found, PROBLEMS)
        if cursor is not None and not _CURSOR.fullmatch(cursor):
            raise InvalidInput("cursor", f"cursor must be the next_cursor of an earlier answer, not {cursor!r}")
        return await worklist.page(Wanted(query=found, order=order, ignored=show_ignored, limit=limit, cursor=cursor))

    @router.get("/failures/{fingerprint}", dependencies=[viewer], summary="One group of failures")
    async def get_failure(
        fingerprint: str,
        ended_since: Annotated[
            str | Absent, Query(description="Begin of `points`: an ISO 8601 time, or an age (`6h`). Default: a day.")
        ] = None,
    ) -> FailureDetailOut:
        """A group of failures, with the error and the arguments of its newest task."""
        now = SYSTEM_CLOCK.now()
        begin = task_filter(ended_since=ended_since).ended_since
        slots = Slots.until(now, begin, _DETAIL_POINTS)
        group = await one(fingerprint, slots)
        samples = await newest(fingerprint, _SAMPLES)
        ended = next((record for record in samples if record.status.finished), None)
        tasks = [task_out(record, with_args=False) for record in samples]
        return FailureDetailOut(
            **dict(group),
            since=datetime.fromtimestamp(slots.first, now.tzinfo),
            bucket_seconds=slots.seconds,
            causes=causes_out(ended.stacktrace) if ended else [],
            stacktrace=ended.stacktrace if ended else None,
            arguments=arguments_text(ended.payload) if ended and shows_args else None,
            samples=tasks,
        )

    @router.post("/failures/{fingerprint}/ignore", dependencies=[may_act, REASON], summary="Ignore a group of failures")
    async def ignore_failure(
        request: Request,
        fingerprint: str,
        until: Annotated[
            str, Query(description="An ISO 8601 time, or a time from now (`24h`); at most a year.")
        ] = "24h",
    ) -> FailureGroupOut:
        """Show the group only to those who ask for the ignored ones, until this moment or until it rises.

        It has risen if at least five of its tasks ended within an hour, and more than twice as many as in the hour
        before it was ignored and as in an average hour of the day before.
        """
        now = SYSTEM_CLOCK.now()
        end = parse_until("until", until, now)
        group = await one(fingerprint, Slots.until(now, None, 1))
        actor = actor_of(request)
        by = Ignored(
            by=actor.name if actor else None,
            at=now,
            until=end,
            recent=group.recent,
            reason=request.query_params.get("reason"),
        )
        await ignored.ignore(fingerprint, by)
        audit.note(request, target=fingerprint, detail=f"until {end:%Y-%m-%d %H:%M} UTC: {group.func_name}")
        return group.model_copy(update={"ignored": by.out()})

    @router.delete(
        "/failures/{fingerprint}/ignore", dependencies=[may_act, REASON], summary="Show an ignored group of failures"
    )
    async def show_failure(request: Request, fingerprint: str) -> FailureGroupOut:
        """Ignore the group no more."""
        group = await one(fingerprint, Slots.until(SYSTEM_CLOCK.now(), None, 1))
        await ignored.show(fingerprint)
        audit.note(request, target=fingerprint, detail=group.func_name)
        return group.model_copy(update={"ignored": None})
