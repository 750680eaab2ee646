"""The route that shows what runs now."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from taskflow_otel.web.answers import task_out
from taskflow_otel.web.guard import Guard
from taskflow_otel.web.ports import TaskEngine
from taskflow_otel.web.running import Running
from taskflow_otel.wire.running import RunningOut

_MOST = 200


def add_running_routes(router: APIRouter, engine: TaskEngine, guard: Guard) -> None:
    """The running tasks."""
    running = Running(engine)

    @router.get("/running", dependencies=[Depends(guard.viewer)], summary="What runs now")
    async def list_running(
        limit: Annotated[int, Query(ge=1, le=_MOST, description="Tasks in the answer.")] = 100,
    ) -> RunningOut:
        """The tasks that run now on all instances, those that have run longest first, without their arguments."""
        found = await running.read()
        return RunningOut(
            tasks=[task_out(record, with_args=False) for record in found.records[:limit]],
            total=len(found.records),
            exact=found.exact,
            p95_seconds=found.usual,
        )
