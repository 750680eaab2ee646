"""The routes about the types of tasks."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Depends, HTTPException

from taskflow_otel.web.guard import Guard
from taskflow_otel.web.objectives import Budgets
from taskflow_otel.web.ports import MetricsPage, TaskEngine
from taskflow_otel.web.task_types import TaskTypes
from taskflow_otel.wire.task_types import TaskTypesOut, TypeDetailOut


def add_type_routes(router: APIRouter, engine: TaskEngine, metrics: MetricsPage, guard: Guard) -> None:
    """List the types, and show one."""
    types = TaskTypes(engine, Budgets(engine, metrics))
    viewer = Depends(guard.viewer)

    @router.get("/types", dependencies=[viewer], summary="Types of tasks")
    async def list_types(window: Literal["1h", "24h"] = "1h") -> TaskTypesOut:
        """The types that the answering instance declares, and those of the tasks that finished in the window."""
        return await types.table(window)

    @router.get("/types/{name:path}", dependencies=[viewer], summary="One type of tasks")
    async def get_type(name: str, window: Literal["1h", "24h", "7d"] = "24h") -> TypeDetailOut:
        """One type: its figures, its slowest tasks, and how it is declared."""
        found = await types.one(name, window)
        if found is None:
            raise HTTPException(404, detail=f"no task type {name!r} is declared, and no task of it is stored")
        return found
