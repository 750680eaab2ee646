"""The routes about the fleet: metrics, overview, live stream, queues, instances, health."""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse

from taskflow_otel.errors import UnknownQueueError
from taskflow_otel.exporters.prometheus.exposition import MetricsFormat, negotiate
from taskflow_otel.model.query import Loss, TaskQuery
from taskflow_otel.web.answers import instance_out, stats_out
from taskflow_otel.web.audit import REASON, AuditLog, reason_of
from taskflow_otel.web.auth import Actor, Scope
from taskflow_otel.web.entrance import actor_of
from taskflow_otel.web.fleet import Fleet
from taskflow_otel.web.guard import Guard
from taskflow_otel.web.objectives import Budgets
from taskflow_otel.web.overview import Overview
from taskflow_otel.web.params import COUNT_LIMIT, task_filter
from taskflow_otel.web.ports import EventSource, MetricsPage, TaskEngine
from taskflow_otel.web.sse import EventStreams
from taskflow_otel.wire.figures import ObjectiveOut, OverviewOut, StatsOut
from taskflow_otel.wire.fleet import InstanceOut, QueueIn, QueueOut, TickOut
from taskflow_otel.wire.releases import ReleaseOut

_FASTEST = 1
_LONGEST_TICK = 300
"""Seconds that one round may take."""


def add_fleet_routes(
    router: APIRouter, engine: TaskEngine, metrics: MetricsPage, stream: EventSource, guard: Guard
) -> None:
    """The routes that only read."""
    overview = Overview(engine)
    budgets = Budgets(engine, metrics)
    fleet = Fleet(engine)
    streams = EventStreams(stream)
    viewer = Depends(guard.viewer)

    @router.get(
        "/metrics",
        dependencies=[Depends(guard.scraper)],
        responses={
            200: {
                "description": "The metrics, in the format of the `Accept` header.",
                "content": {
                    "application/openmetrics-text": {"schema": {"type": "string"}},
                    "text/plain": {"schema": {"type": "string"}},
                    "application/json": {"schema": {"$ref": "#/components/schemas/StatsOut"}},
                },
            },
        },
        response_class=Response,
        summary="Metrics",
    )
    async def get_metrics(
        accept: Annotated[str, Header()] = "", accept_encoding: Annotated[str, Header()] = ""
    ) -> Response:
        """OpenMetrics, Prometheus text, or for `Accept: application/json` the aggregate."""
        if negotiate(accept) is MetricsFormat.JSON:
            stats = stats_out(await engine.lookup.counts(TaskQuery()))
            return JSONResponse(stats.model_dump(mode="json"), headers={"Vary": "Accept"})
        await metrics.refresh()
        body, content_type = await asyncio.to_thread(metrics.render, accept)
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if _takes_gzip(accept_encoding):
            # Prometheus asks for it. The same names in every line leave a twenty-fifth of the text.
            body = await asyncio.to_thread(gzip.compress, body, _FASTEST)
            headers["Content-Encoding"] = "gzip"
        return Response(body, headers=headers)

    @router.get("/stats", dependencies=[viewer], summary="The aggregate")
    async def get_stats(
        found: Annotated[TaskQuery, Depends(task_filter)],
        exact: Annotated[bool, Query(description="Count every task that matches, without a limit.")] = False,
    ) -> StatsOut:
        """How many of the tasks that match are in each state.

        Exact without a filter, and with filters by name, queue, source and state. With other filters, only the newest
        10,000 tasks are counted; with several conditions or a search text, only the newest tasks that were read.
        """
        return stats_out(await engine.lookup.counts(replace(found, count_limit=None if exact else COUNT_LIMIT)))

    @router.get("/overview", dependencies=[viewer], summary="The numbers of the overview")
    async def get_overview(window: Literal["15m", "1h", "6h", "24h"] = "1h") -> OverviewOut:
        """Rates, shares and percentiles over the window, of all instances."""
        return await overview.read(window)

    @router.get("/objectives", dependencies=[viewer], summary="Objectives")
    async def list_objectives() -> list[ObjectiveOut]:
        """The objectives of the task types of the answering instance, and how much of their error budgets is left."""
        return await budgets.read()

    @router.get(
        "/events",
        responses={
            200: {
                "description": "Server-Sent Events: small deltas, and a comment after 15 seconds without a change.",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            },
        },
        response_class=Response,
        summary="Live stream",
    )
    async def get_events(
        request: Request,
        actor: Actor = viewer,
        last_event_id: Annotated[str | None, Header()] = None,
        after: Annotated[
            str | None, Query(description="As `Last-Event-ID`, for clients that cannot set a header.")
        ] = None,
    ) -> Response:
        """Changes as they happen; a reconnect with `Last-Event-ID` misses nothing."""
        watch = await guard.watch(request, actor)
        return streams.open(last_event_id or after, until=watch.until, still=watch.still)

    @router.get("/queues", dependencies=[viewer], summary="Queues")
    async def list_queues() -> list[QueueOut]:
        """The queues with their limits and their load, on all living instances together and on each."""
        return await fleet.queues()

    @router.get("/instances", dependencies=[viewer], summary="Instances")
    async def list_instances() -> list[InstanceOut]:
        """The processes that share the backend."""
        losses = await engine.lookup.losses()
        known, said = await engine.lookup.instances(), await engine.board.read()
        return [
            instance_out(one, engine.instance_id, losses.get(one.instance_id, Loss()), said.get(one.instance_id))
            for one in known
        ]

    @router.get("/releases", dependencies=[viewer], summary="Releases")
    async def list_releases() -> list[ReleaseOut]:
        """When each release of the application was first seen (`TaskManager(release=...)`), the oldest first.

        One that came back after another is there again. They are kept for 35 days.
        """
        return [ReleaseOut.model_validate(mark) for mark in await engine.board.releases()]


def _takes_gzip(accepted: str) -> bool:
    """Whether an `Accept-Encoding` header names gzip (RFC 9110, section 12.5.3)."""
    for part in accepted.lower().split(","):
        coding, _, quality = part.partition(";")
        if coding.strip() == "gzip":
            return quality.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False


def add_tick_route(router: APIRouter, engine: TaskEngine, guard: Guard) -> None:
    """The route for platforms that freeze a process between requests."""

    @router.post("/tick", dependencies=[Depends(guard.acting(Scope.TICK))], summary="Let what is due run")
    async def tick(
        seconds: Annotated[float, Query(gt=0, le=_LONGEST_TICK, description="The longest time for it.")] = 25.0,
    ) -> TickOut:
        """Let tasks of shared queues, due schedules, retries and tasks of dead instances run in this process.

        The answer comes when nothing is left, or after this time. For platforms that freeze a process between requests:
        call it about once a minute.
        """
        done = await engine.ticks.tick(seconds)
        return TickOut(started=done.started, left=done.left)


def add_queue_routes(router: APIRouter, engine: TaskEngine, guard: Guard, audit: AuditLog) -> None:
    """The routes that change a queue."""
    acting = [Depends(guard.acting(Scope.QUEUES)), REASON]
    fleet = Fleet(engine)

    def known(name: str) -> str:
        stats = engine.queues.stats()
        if name not in stats:
            raise UnknownQueueError(name, stats)
        return name

    @router.post("/queues/{name:path}/pause", dependencies=acting, summary="Pause a queue")
    async def pause_queue(request: Request, name: str) -> QueueOut:
        """Start no further task of this queue; running ones continue."""
        actor = actor_of(request)
        await engine.queues.pause(known(name), actor.name if actor else None, reason_of(request))
        return await fleet.queue(name)

    @router.post("/queues/{name:path}/resume", dependencies=acting, summary="Resume a queue")
    async def resume_queue(name: str) -> QueueOut:
        """Start tasks of this queue again."""
        await engine.queues.resume(known(name))
        return await fleet.queue(name)

    @router.patch(
        "/queues/{name:path}",
        dependencies=acting,
        summary="Change a queue's limits",
    )
    async def configure_queue(request: Request, name: str, body: QueueIn) -> QueueOut:
        """Change the given limits; `null` removes a limit."""
        changes: dict[str, Any] = body.model_dump(exclude_unset=True)
        await engine.queues.update(known(name), **changes)
        audit.note(request, detail=str(changes))
        return await fleet.queue(name)
