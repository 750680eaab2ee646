"""`taskflow-otel worker`: the same application without its routes, which runs the tasks of shared queues."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import click

from taskflow_otel.cli.options import PORT
from taskflow_otel.errors import ConfigurationError, MissingExtraError
from taskflow_otel.model.vocabulary import InstanceKind
from taskflow_otel.runtime.terminal import say

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from taskflow_otel.engine.deployment import Deployment

_FAILED = 2
_PORT = 8001
_APPLICATION = re.compile(r"(?!\d)\w+(?:\.(?!\d)\w+)*:\w+(?:\.\w+)*")
_HEADERS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


@click.command()
@click.argument("application", metavar="MODULE:APP")
@click.option("--queues", metavar="NAMES", help="The queues to claim from, with commas (default: all).")
@click.option("--concurrency", metavar="N", help="Tasks that run at once (default: the limits of the queues).")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where probes and metrics answer.")
@click.option("--port", type=PORT, default=_PORT, show_default=True, help="The port for them.")
@click.option("--app-dir", metavar="DIR", default=".", help="Where to look for MODULE (default: here).")
def worker(application: str, queues: str | None, concurrency: str | None, host: str, port: int, app_dir: str) -> int:
    """Run tasks of shared queues, without routes.

    MODULE:APP as for uvicorn, for example shop.main:app. Its lifespan runs, and the tasks of shared queues; of its
    paths, only the probes and the metrics of TaskAdmin answer. SIGTERM drains it like a web process.
    """
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        if error.name != "uvicorn":
            raise
        raise MissingExtraError("the worker", "worker") from error
    # Help and completion load nothing of this.
    from fastapi import FastAPI

    from taskflow_otel.compat.fastapi import untraced_paths
    from taskflow_otel.engine.deployment import CONCURRENCY, KIND, QUEUES, RUN, deployment

    # Before the import: the application's TaskManager reads them.
    os.environ[RUN], os.environ[KIND] = "pool", InstanceKind.WORKER.value
    for variable, value in ((QUEUES, queues), (CONCURRENCY, concurrency)):
        if value is not None:
            os.environ[variable] = value
    deployment()
    if not _APPLICATION.fullmatch(application):
        raise ConfigurationError(f"{application!r} is not MODULE:APP, for example shop.main:app")
    sys.path.insert(0, app_dir)
    app = _load(application, app_dir)
    probes = untraced_paths(app) if isinstance(app, FastAPI) else frozenset()
    started = _started(application, deployment(), f"http://{host}:{port}", probes)

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                say(started, sys.stdout)

    server = Server(uvicorn.Config(OnlyProbes(app, probes), host=host, port=port, lifespan="on", log_level="warning"))
    try:
        server.run()
    except SystemExit:
        # uvicorn has logged why: the lifespan failed, or the port is in use.
        return _FAILED
    return 0 if server.started else _FAILED


def _started(application: str, run: Deployment, url: str, probes: Collection[str]) -> str:
    """The line that says what a worker does, once it has started."""
    queues = "all shared queues" if run.queues is None else f"the queues {', '.join(sorted(run.queues))}"
    slots = "as many at once as the queues allow" if run.concurrency is None else f"{run.concurrency} at once"
    where = f"probes and metrics on {url}" if probes else f"no probes (the application has no TaskAdmin) on {url}"
    return f"worker of {application}: runs tasks of {queues}, {slots}; {where}"


def _load(name: str, directory: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A module that the application itself imports is a fault of the application, which a traceback shows best.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(f"there is no module {error.name!r} in {directory!r}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(f"the module {module!r} has no {attribute!r}")
        found = getattr(found, part)
    return found


class OnlyProbes:
    """An application of which only the lifespan, the probes and the metrics of `TaskAdmin` can be read.

    `probes`: their paths, relative to the application's root.
    """

    def __init__(self, app: ASGIApp, probes: Collection[str]) -> None:
        self._app = app
        self._probes = probes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the lifespan and the probes on; any other path is 404, so that nobody takes a worker for the web."""
        kind = scope["type"]
        if kind == "lifespan" or (kind == "http" and self._is_probe(scope)):
            await self._app(scope, receive, send)
        elif kind == "http":
            body = b"this is a worker: it answers probes and metrics only\n"
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 404, "headers": [*headers, *_HEADERS]})
            await send({"type": "http.response.body", "body": body})
        else:
            await send({"type": "websocket.close", "code": 1000})

    def _is_probe(self, scope: Scope) -> bool:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        return path in self._probes and scope["method"] in {"GET", "HEAD"}
