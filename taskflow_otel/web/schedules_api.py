"""The routes about schedules: list, run, pause and resume them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from taskflow_otel.model.schedule import ScheduledRun, ScheduleStatus
from taskflow_otel.web.audit import AuditLog
from taskflow_otel.web.auth import Actor
from taskflow_otel.web.guard import Guard
from taskflow_otel.web.ports import TaskEngine
from taskflow_otel.web.routing import errors
from taskflow_otel.web.schemas import TaskOut, task_out
from taskflow_otel.web.settings import WebSettings


class ScheduleOut(BaseModel):
    """A schedule, or a planned run."""

    name: str = Field(description="The name of the schedule, or the run key of a planned run.")
    kind: Literal["recurring", "once"]
    func_name: str
    rule: str
    timezone: str
    next_run: datetime | None = Field(description="Null while the schedule is paused.")
    last_run: datetime | None = Field(description="The latest firing time on any instance.")
    last_task_id: str | None
    paused: bool
    catch_up: str | None
    overlap: str | None
    missed: int = Field(description="Firings that did not run since the start of the answering instance.")
    errors: int = Field(description="Errors while firing since the start of the answering instance.")
    last_error: str | None


def add_schedule_routes(
    router: APIRouter, engine: TaskEngine, settings: WebSettings, guard: Guard, audit: AuditLog
) -> None:
    """All routes about schedules. A name may contain slashes."""
    operator = Depends(guard.operator)
    book = engine.schedules

    @router.get("/schedules", dependencies=[Depends(guard.viewer)], responses=errors(), summary="Schedules")
    async def list_schedules() -> list[ScheduleOut]:
        """The recurring schedules by name, then the planned runs of all instances, the next first."""
        planned = [planned_out(run) for run in await book.planned()]
        return [*map(schedule_out, book.statuses()), *planned]

    @router.post(
        "/schedules/{name:path}/run",
        status_code=202,
        response_model=TaskOut,
        responses=errors(403, 404, 422),
        summary="Run a schedule now",
    )
    async def run_schedule(request: Request, name: str, actor: Actor = operator) -> Response:
        """Make one run, independently of the rule, and return its task."""
        record = await book.run(name)
        audit.record(request, actor, "run-schedule", name, f"as {record.task_id}")
        hidden = None if settings.display_func_args else {"args", "kwargs"}
        task = task_out(record, with_args=settings.display_func_args).model_dump(mode="json", exclude=hidden)
        return JSONResponse(task, 202)

    @router.post("/schedules/{name:path}/pause", responses=errors(403, 404, 422), summary="Pause a schedule")
    async def pause_schedule(request: Request, name: str, actor: Actor = operator) -> ScheduleOut:
        """Stop it from firing, on all instances, also after a restart."""
        status = await book.pause(name)
        audit.record(request, actor, "pause-schedule", name)
        return schedule_out(status)

    @router.post("/schedules/{name:path}/resume", responses=errors(403, 404, 422), summary="Resume a schedule")
    async def resume_schedule(request: Request, name: str, actor: Actor = operator) -> ScheduleOut:
        """Let it fire again; firings during the pause are not caught up."""
        status = await book.resume(name)
        audit.record(request, actor, "resume-schedule", name)
        return schedule_out(status)


def schedule_out(status: ScheduleStatus) -> ScheduleOut:
    """One recurring schedule."""
    return ScheduleOut(
        name=status.name,
        kind="recurring",
        func_name=status.func_name,
        rule=status.rule,
        timezone=status.timezone,
        next_run=status.next_run,
        last_run=status.last_run,
        last_task_id=status.last_task_id,
        paused=status.paused,
        catch_up=status.catch_up,
        overlap=status.overlap,
        missed=status.missed,
        errors=status.errors,
        last_error=status.last_error,
    )


def planned_out(run: ScheduledRun) -> ScheduleOut:
    """One planned run, without its arguments."""
    return ScheduleOut(
        name=run.run_key,
        kind="once",
        func_name=run.func_name,
        rule="once",
        timezone="UTC",
        next_run=run.run_at,
        last_run=None,
        last_task_id=None,
        paused=False,
        catch_up=None,
        overlap=None,
        missed=0,
        errors=0,
        last_error=None,
    )
