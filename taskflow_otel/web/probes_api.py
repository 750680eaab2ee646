"""The routes that say whether this instance works: without login or detail to probes, with reasons to people."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse

from taskflow_otel.web.guard import Guard
from taskflow_otel.web.hosts import Hosts
from taskflow_otel.web.ports import TaskEngine
from taskflow_otel.web.readiness import Readiness
from taskflow_otel.wire.fleet import HealthOut, ProbeOut


def add_probe_routes(router: APIRouter, engine: TaskEngine, readiness: Readiness, guard: Guard, hosts: Hosts) -> None:
    """Liveness and readiness, under any name: load balancers have names of their own. Health, which has reasons."""

    @router.get("/livez", summary="Liveness")
    async def get_liveness() -> ProbeOut:
        """The process answers. Needs no login."""
        return ProbeOut(status="ok")

    @router.get(
        "/readyz",
        response_model=ProbeOut,
        responses={503: {"model": ProbeOut, "description": "Not ready; `/health` says why."}},
        summary="Readiness",
    )
    async def get_readiness() -> Response:
        """Whether this instance takes tasks and reaches its backend. Needs no login, and gives no reasons."""
        ready = await readiness.is_ready()
        body = ProbeOut(status="ok" if ready else "unavailable")
        return JSONResponse(body.model_dump(), 200 if ready else 503)

    @router.get(
        "/health",
        dependencies=[Depends(hosts.check), Depends(guard.viewer)],
        response_model=HealthOut,
        responses={503: {"model": HealthOut, "description": "Not ready, and why."}},
        summary="Health",
    )
    async def get_health() -> Response:
        """Whether this instance takes tasks and reaches its backend."""
        reasons = await readiness.reasons()
        body = HealthOut(status="unavailable" if reasons else "ok", reasons=reasons, instance=engine.instance_id)
        return JSONResponse(body.model_dump(), 503 if reasons else 200)
