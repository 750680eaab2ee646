"""`taskflow-otel worker`: the same application without its routes, which runs the tasks of shared queues."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from taskflow_otel.engine.deployment import CONCURRENCY, QUEUES, RUN, deployment
from taskflow_otel.errors import ConfigurationError, MissingExtraError

_FAILED = 2
_PROBES = frozenset({"livez", "readyz", "health", "metrics"})
_PORT = 8001


def add_worker(add_command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to those of `taskflow-otel`."""
    worker = add_command(
        "worker",
        help="run the tasks of shared queues, without the application's routes",
        description="Run an application without its routes: its lifespan, and the tasks of shared queues. Of its "
        "paths, only the probes and the metrics of TaskAdmin answer. SIGTERM drains it like a web process.",
    )
    worker.add_argument("application", metavar="MODULE:APP", help="as for uvicorn, for example shop.main:app")
    worker.add_argument("--queues", metavar="NAMES", help="the queues to claim from, with commas (default: all)")
    worker.add_argument("--concurrency", metavar="N", help="tasks that run at once (default: the limits of the queues)")
    worker.add_argument("--host", default="127.0.0.1", help="where probes and metrics answer (default: %(default)s)")
    worker.add_argument("--port", type=int, default=_PORT, help="the port for them (default: %(default)s)")
    worker.add_argument("--app-dir", metavar="DIR", default=".", help="where to look for MODULE (default: here)")
    worker.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    try:
        import uvicorn
        from uvicorn.importer import ImportFromStringError, import_from_string
    except ModuleNotFoundError as error:
        if error.name != "uvicorn":
            raise
        raise MissingExtraError("the worker", "worker") from error
    # Before the import: the application's TaskManager reads them.
    os.environ[RUN] = "pool"
    for variable, value in ((QUEUES, options.queues), (CONCURRENCY, options.concurrency)):
        if value is not None:
            os.environ[variable] = value
    deployment()
    sys.path.insert(0, options.app_dir)
    try:
        application = import_from_string(options.application)
    except ImportFromStringError as error:
        raise ConfigurationError(str(error)) from error
    server = uvicorn.Server(
        uvicorn.Config(
            OnlyProbes(application), host=options.host, port=options.port, lifespan="on", log_level="warning"
        )
    )
    server.run()
    return 0 if server.started else _FAILED


class OnlyProbes:
    """An application of which only the lifespan, the probes and the metrics can be reached."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the lifespan and the probes on; any other path is 404, so that nobody takes a worker for the web."""
        kind = scope["type"]
        if kind == "lifespan" or (kind == "http" and scope["path"].rpartition("/")[2] in _PROBES):
            await self._app(scope, receive, send)
        elif kind == "http":
            body = b"this is a worker: it answers probes and metrics only\n"
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 404, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await send({"type": "websocket.close", "code": 1000})
