"""The REST API as routers, assembled from their parts."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends

from taskflow_otel.web.audit import AuditLog
from taskflow_otel.web.audit_api import add_audit_routes
from taskflow_otel.web.bulk_api import add_bulk_routes
from taskflow_otel.web.dashboard import add_page_routes
from taskflow_otel.web.documented import document
from taskflow_otel.web.failures_api import add_failure_routes
from taskflow_otel.web.fleet_api import add_fleet_routes, add_queue_routes, add_tick_route
from taskflow_otel.web.guard import Guard
from taskflow_otel.web.hosts import Hosts
from taskflow_otel.web.operations_api import add_operation_routes
from taskflow_otel.web.ports import EventSource, MetricsPage, TaskEngine
from taskflow_otel.web.probes_api import add_probe_routes
from taskflow_otel.web.problems_api import add_problem_routes
from taskflow_otel.web.readiness import Readiness
from taskflow_otel.web.retries_api import add_retry_routes
from taskflow_otel.web.routing import route_class
from taskflow_otel.web.running_api import add_running_routes
from taskflow_otel.web.schedules_api import add_schedule_routes
from taskflow_otel.web.settings import WebSettings
from taskflow_otel.web.tasks_api import add_collection_routes, add_item_routes
from taskflow_otel.web.traces_api import add_trace_route
from taskflow_otel.web.types_api import add_type_routes


def make_routers(
    engine: TaskEngine,
    metrics: MetricsPage,
    stream: EventSource,
    settings: WebSettings,
    *,
    guard: Guard,
    audit: AuditLog,
    hosts: Hosts,
) -> list[APIRouter]:
    """All routes under `settings.path`, for inclusion in an application in this order."""
    readiness = Readiness(engine)
    named, routes = Depends(hosts.check), route_class(settings.path, audit)

    def part(*dependencies: Any) -> APIRouter:
        return APIRouter(prefix=settings.path, tags=["taskflow"], route_class=routes, dependencies=list(dependencies))

    page = part(named)
    add_page_routes(page, settings, guard, audit)
    add_problem_routes(page)
    probes = part()
    add_probe_routes(probes, engine, readiness, guard, hosts)
    router = part(named, Depends(readiness.require_started))
    add_audit_routes(router, engine, guard)
    add_operation_routes(router, engine, guard)
    add_fleet_routes(router, engine, metrics, stream, guard)
    add_running_routes(router, engine, guard)
    add_queue_routes(router, engine, guard, audit)
    add_tick_route(router, engine, guard)
    add_schedule_routes(router, engine, settings, guard, audit)
    add_collection_routes(router, engine, settings, guard)
    add_type_routes(router, engine, metrics, guard)
    add_failure_routes(router, engine, settings, guard, audit)
    add_bulk_routes(router, engine, guard, audit, settings.path)
    # Last, because a task id may be any single path segment.
    add_retry_routes(router, engine, settings, guard, audit)
    add_item_routes(router, engine, settings, guard)
    add_trace_route(router, engine, guard)
    for part_of_api in (page, probes, router):
        document(part_of_api, guard)
    return [page, probes, router]
