"""Celery as the engine: the web process and the page stay as they are, and the workers of Celery run the tasks.

celery -A examples.celery_workers:celery_app worker --queues videos --concurrency 4
uvicorn examples.celery_workers:app

curl -X POST 'http://127.0.0.1:8000/videos?name=cat'
curl -X POST 'http://127.0.0.1:8000/videos?name=dog'
curl 'http://127.0.0.1:8000/tasks'
curl 'http://127.0.0.1:8000/tasks/instances'
curl 'http://127.0.0.1:8000/tasks/queues'
"""

from __future__ import annotations

import os

from celery import Celery
from fastapi import BackgroundTasks, FastAPI

from taskflow_otel import QueueConfig, TaskAdmin, TaskManager, task_log
from taskflow_otel.celery import install

app = FastAPI()
celery_app = Celery("shop", broker=os.environ.get("CELERY_BROKER_URL", "redis://127.0.0.1:6379/1"))
task_manager = TaskManager(
    # All processes share it: a file on one host, else a database server.
    snapshot_db=os.environ.get("TASKS_DB", "tasks.db"),
    queues={"videos": QueueConfig(run="celery", celery_queue="videos")},
)
# With several web workers, sessions need a key that all of them have: TaskAdmin(auth=..., secret_key=...).
TaskAdmin(app, task_manager, auto_install=True)
install(celery_app, task_manager)


@task_manager.task(queue="videos", persist=True, requeue_on_interrupt=True, retries=2)
def convert(name: str) -> None:
    task_log(f"converted {name}", pid=os.getpid())


@app.post("/videos", status_code=202)
async def add_video(name: str, background_tasks: BackgroundTasks) -> dict[str, int]:
    background_tasks.add_task(convert, name)
    return {"taken_by": os.getpid()}
