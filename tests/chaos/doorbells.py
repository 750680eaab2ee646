"""The Celery application of a storm, whose messages a process dies before or after, and which may come twice."""

from __future__ import annotations

import os

from celery import Celery

from taskflow_otel import QueueConfig, TaskManager
from taskflow_otel.celery import install
from taskflow_otel.celery.bell import CeleryBell
from taskflow_otel.engine.fleet import doorbells
from taskflow_otel.runtime.retrying import Backoff
from tests.chaos.crash_points import AFTER_RING, BEFORE_RING, CrashPoints
from tests.chaos.fleet import CELERY_QUEUE

BROKER, TWICE = "CHAOS_BROKER", "CHAOS_TWICE"


def queues() -> dict[str, QueueConfig] | None:
    """The queues of the application: if there is a broker, Celery runs their tasks.

    A storm cannot wait for sweeps as long as an application. Call it before the manager is made.
    """
    if BROKER not in os.environ:
        return None
    doorbells.SWEEP, doorbells.AGE = 0.5, 1.0
    doorbells.AGAIN = Backoff(first=1.0, longest=5.0)
    return {"default": QueueConfig(run="celery", celery_queue=CELERY_QUEUE)}


def connect(task_manager: TaskManager, points: CrashPoints) -> Celery | None:
    """The Celery application that runs the tasks, if there is a broker."""
    if BROKER not in os.environ:
        return None
    celery_app = Celery("chaos", broker=os.environ[BROKER])
    celery_app.conf.update(
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_cancel_long_running_tasks_on_connection_loss=False,
    )
    install(celery_app, task_manager)
    ring_once = CeleryBell.ring

    def ring_watched(self: CeleryBell, ring: doorbells.Ring) -> None:
        points.reach(BEFORE_RING)
        for _ in range(2 if TWICE in os.environ else 1):
            ring_once(self, ring)
        points.reach(AFTER_RING)

    CeleryBell.ring = ring_watched  # type: ignore[method-assign]  # of this process only
    return celery_app
