"""Connects a `TaskManager` with a Celery application."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

from taskflow_otel.celery.bell import TASK, CeleryBell
from taskflow_otel.celery.extra import celery, signals
from taskflow_otel.celery.host import Host, Lifespan
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.manager import TaskManager

_installed: WeakSet[Any] = WeakSet()


def install(app: Any, task_manager: TaskManager, *, lifespan: Lifespan | None = None) -> None:
    """Let the workers of a Celery application run the tasks of the queues with `run="celery"`.

    Call it in the module that defines both, which web processes and workers import; before the start. It gives the
    application one Celery task, `taskflow_otel.run`. Each process of a worker that runs Celery's tasks has an engine of
    its own, which it starts and drains. `lifespan`: what to enter in each of them around the engine, for
    example `lambda: app.router.lifespan_context(app)` of the FastAPI application.

    Raises `ConfigurationError` for another application or manager than the one that is connected already, or on a
    backend that cannot share tasks.
    """
    if not isinstance(app, celery.Celery):
        raise ConfigurationError(
            f"the first argument of install must be a Celery application, not {type(app).__name__}"
        )
    doorbells = task_manager.engine.doorbells
    if doorbells is None:
        raise ConfigurationError("this backend cannot share tasks: Celery needs one that keeps the pool")
    if app in _installed:
        raise ConfigurationError("this Celery application runs the tasks of another TaskManager already")
    host = Host(task_manager, doorbells, lifespan)

    def run(task_id: str, *, queue: str) -> str:
        return host.answer(task_id, queue)

    # Options of the application must not change what the ledger relies on: early acknowledgement, no result, no retry.
    task = app.task(
        name=TASK,
        shared=False,
        acks_late=False,
        acks_on_failure_or_timeout=True,
        reject_on_worker_lost=False,
        ignore_result=True,
        store_errors_even_if_ignored=False,
        track_started=False,
        max_retries=0,
        rate_limit=None,
        serializer="json",
    )(run)
    doorbells.connect(CeleryBell(app, task))
    _installed.add(app)

    def started(**_: Any) -> None:
        # The children of a worker of another application get the signal too.
        if celery.current_app == app:
            host.start()

    def stopped(**_: Any) -> None:
        host.stop()

    # Not weakly: nothing else holds them. The main process of a worker runs tasks in pools of threads and in `solo`.
    signals.worker_process_init.connect(started, weak=False)
    signals.worker_process_shutdown.connect(stopped, weak=False)
    signals.worker_shutdown.connect(stopped, weak=False)
