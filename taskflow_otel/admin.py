"""TaskAdmin: mounts a manager on an application, with the API, the live page and access control."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from taskflow_otel.compat.fastapi import build_routes, leave_untraced
from taskflow_otel.compat.starlette import wrap_default
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.options import flag
from taskflow_otel.request.applications import refuse_other_apps
from taskflow_otel.web.access import AuthSetting, make_guard
from taskflow_otel.web.api import make_routers
from taskflow_otel.web.app_login import RoleOf
from taskflow_otel.web.audit import AuditLog
from taskflow_otel.web.hosts import Hosts
from taskflow_otel.web.nowhere import Nowhere
from taskflow_otel.web.sessions import Sessions
from taskflow_otel.web.settings import WebSettings
from taskflow_otel.web.tokens import ApiToken

if TYPE_CHECKING:
    from fastapi import FastAPI

    from taskflow_otel.manager import TaskManager

WATCHED = ("metrics", "livez", "readyz", "health")
"""The routes that Prometheus and orchestrators ask: their requests leave no spans."""

_log = logging.getLogger("taskflow_otel")
_taken: WeakKeyDictionary[FastAPI, set[str]] = WeakKeyDictionary()
"""The paths of the administrations of each application."""


def _take_path(app: FastAPI, path: str) -> None:
    paths = _taken.setdefault(app, set())
    if path in paths:
        raise ConfigurationError(
            f"this application has an administration at {path} already, which would answer in place of this one: "
            "TaskAdmin(app, task_manager, path='/other-tasks')"
        )
    paths.add(path)


class TaskAdmin:
    """Adds the routes under `path` and connects the manager to the application's lifespan.

    `auto_install`: routes that ask for the native `BackgroundTasks` get the managed ones.
    `auth`: who may come in. Without it everything under `path` is open, and a warning says so. It may be
    `(user, password)`; a list of such pairs and of `(user, password, role)`, where the password may be an argon2 hash;
    an object with `authenticate(username, password)`, which returns the role `viewer` or `operator`, or `None`, and
    with `find(username)`, which returns a `User` or `None`; or the sign-in of the application: any FastAPI dependency
    that returns a user or raises. For a dependency, `role` is a function from the user to `viewer`, `operator` or
    `None`. `tokens`: `ApiToken`s for scripts. `secret_key` keeps sessions valid across workers and restarts for
    `token_expiry` seconds.
    `metrics_token`: a bearer token that gives access to `{path}/metrics`. `read_only`: no one can change anything.
    `poll_interval` (seconds): how often the page refreshes its totals. `trace_url`: the URL of a trace, with
    `{trace_id}` in it. `log_url`: the URL of a task's log elsewhere, with `{task_id}` or `{trace_id}` in it; `{from}`
    and `{to}` become its creation and a minute after its end, in milliseconds since 1970. `display_func_args`: show the
    arguments of tasks.
    `allowed_hosts`: the names under which this server is reached, such as `["tasks.example.com", "*.example.org"]`;
    others are answered 421. Without it, an open administration answers under IP addresses and names that the public
    DNS gives to nobody (no dot, `localhost`, `.localhost`, `.internal`), and one with `auth` under every name.
    `retention_days`: replaces that of the manager. `include_in_schema`: whether the OpenAPI document of the application
    has the routes of the API.

    Raises `ConfigurationError` for a wrong setting.
    """

    def __init__(
        self,
        app: FastAPI,
        task_manager: TaskManager,
        path: str = "/tasks",
        display_func_args: bool = False,
        auto_install: bool = False,
        auth: AuthSetting = None,
        token_expiry: float = 86_400,
        secret_key: str | None = None,
        poll_interval: float = 5.0,
        title: str = "Tasks",
        retention_days: float | None = None,
        *,
        role: RoleOf | None = None,
        tokens: Sequence[ApiToken] = (),
        trace_url: str | None = None,
        log_url: str | None = None,
        metrics_token: str | None = None,
        read_only: bool = False,
        allowed_hosts: Sequence[str] | None = None,
        include_in_schema: bool = True,
    ) -> None:
        refuse_other_apps(app)
        self.settings: WebSettings = WebSettings(
            path=path,
            title=title,
            display_func_args=display_func_args,
            poll_interval=poll_interval,
            trace_url=trace_url,
            log_url=log_url,
            read_only=read_only,
        )
        audit = AuditLog(task_manager.engine.audit)
        guard = make_guard(
            app,
            task_manager.engine,
            audit,
            Sessions(secret_key, token_expiry, audience=path),
            auth=auth,
            role=role,
            tokens=tokens,
            metrics_token=metrics_token,
            read_only=read_only,
        )
        hosts = Hosts(allowed_hosts, is_open=guard.is_open)
        routers = make_routers(
            task_manager.engine,
            task_manager.metrics_page,
            task_manager.stream,
            self.settings,
            guard=guard,
            audit=audit,
            hosts=hosts,
        )
        if retention_days is not None:
            task_manager.engine.keep_finished(retention_days)
        shown = flag("include_in_schema", include_in_schema)
        _take_path(app, path)
        before = len(app.routes)
        for router in routers:
            app.include_router(router, include_in_schema=shown)
        build_routes(app.routes[before:])
        wrap_default(app, lambda default: Nowhere(path, guard, hosts, default))
        # What watches the application asks these every few seconds.
        leave_untraced(app, [f"{path}/{name}" for name in WATCHED])
        task_manager.init_app(app)
        if auto_install:
            task_manager.install(app)
        if guard.is_open:
            _log.warning(
                "%s is open to everyone who can reach this server: tasks, errors and logs can be read%s. "
                "Close it with TaskAdmin(auth=(user, password)).",
                path,
                "" if read_only else ", tasks retried, cancelled and deleted, queues paused",
            )
