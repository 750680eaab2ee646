"""The routes about schedules: list, run, pause and resume them."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from taskflow_otel.web.answers import schedule_out, task_out
from taskflow_otel.web.audit import REASON, AuditLog, reason_of
from taskflow_otel.web.auth import Scope
from taskflow_otel.web.entrance import actor_of
from taskflow_otel.web.fleet import Fleet
from taskflow_otel.web.guard import Guard
from taskflow_otel.web.ports import TaskEngine
from taskflow_otel.web.settings import WebSettings
from taskflow_otel.wire.fleet import ScheduleOut
from taskflow_otel.wire.tasks import TaskOut


def add_schedule_routes(
    router: APIRouter, engine: TaskEngine, settings: WebSettings, guard: Guard, audit: AuditLog
) -> None:
    """All routes about schedules. A name may contain slashes."""
    acting = [Depends(guard.acting(Scope.SCHEDULES)), REASON]
    book, fleet = engine.schedules, Fleet(engine)

    @router.get("/schedules", dependencies=[Depends(guard.viewer)], summary="Schedules")
    async def list_schedules() -> list[ScheduleOut]:
        """The recurring schedules by name, then the planned runs of all instances, the next first."""
        return await fleet.schedules()

    @router.post(
        "/schedules/{name:path}/run",
        status_code=202,
        dependencies=acting,
        response_model=TaskOut,
        summary="Run a schedule now",
    )
    async def run_schedule(request: Request, name: str) -> Response:
        """Make one run, independently of the rule, and return its task."""
        record = await book.run(name)
        audit.note(request, detail=f"as {record.task_id}")
        hidden = None if settings.display_func_args else {"args", "kwargs"}
        task = task_out(record, with_args=settings.display_func_args).model_dump(mode="json", exclude=hidden)
        return JSONResponse(task, 202)

    @router.post("/schedules/{name:path}/pause", dependencies=acting, summary="Pause a schedule")
    async def pause_schedule(request: Request, name: str) -> ScheduleOut:
        """Stop it from firing, on all instances, also after a restart."""
        actor = actor_of(request)
        status = await book.pause(name, actor.name if actor else None, reason_of(request))
        return schedule_out(status)

    @router.post(
        "/schedules/{name:path}/resume",
        dependencies=acting,
        summary="Resume a schedule",
    )
    async def resume_schedule(name: str) -> ScheduleOut:
        """Let it fire again; firings during the pause are not caught up."""
        status = await book.resume(name)
        return schedule_out(status)
