"""Several web workers and task workers on one Redis: a shared queue, whose tasks go to any free slot.

uvicorn examples.workers:app --workers 4
taskflow-otel worker examples.workers:app --concurrency 8

curl -X POST 'http://127.0.0.1:8000/videos?name=cat'
curl -X POST 'http://127.0.0.1:8000/videos?name=dog'
curl 'http://127.0.0.1:8000/tasks'
curl 'http://127.0.0.1:8000/tasks/instances'
curl 'http://127.0.0.1:8000/tasks/queues'
"""

from __future__ import annotations

import os

from fastapi import BackgroundTasks, FastAPI

from taskflow_otel import QueueConfig, TaskAdmin, TaskManager, task_log
from taskflow_otel.backends import RedisBackend

app = FastAPI()
task_manager = TaskManager(
    snapshot_backend=RedisBackend(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")),
    # In the pool, a task has no owner until someone claims it. Web processes claim too, unless TASKFLOW_RUN=none.
    queues={"default": QueueConfig(), "videos": QueueConfig(concurrency=2, run="pool")},
)
# With several workers, sessions need a key that all of them have: TaskAdmin(auth=..., secret_key=...).
TaskAdmin(app, task_manager, auto_install=True)


@task_manager.task(queue="videos", persist=True, requeue_on_interrupt=True, retries=2)
def convert(name: str) -> None:
    task_log(f"converted {name}", pid=os.getpid())


@app.post("/videos", status_code=202)
async def add_video(name: str, background_tasks: BackgroundTasks) -> dict[str, int]:
    background_tasks.add_task(convert, name)
    return {"taken_by": os.getpid()}
