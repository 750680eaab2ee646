"""Named queues with limits, priorities, and a full queue that answers 503.

uvicorn examples.queues:app

curl -X POST 'http://127.0.0.1:8000/reports?customer=1'
curl -X POST 'http://127.0.0.1:8000/reports?customer=2&urgent=true'
curl 'http://127.0.0.1:8000/tasks/queues'
curl -X POST 'http://127.0.0.1:8000/tasks/queues/reports/pause'
curl -X POST 'http://127.0.0.1:8000/tasks/queues/reports/resume'
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException

from taskflow_otel import ManagedBackgroundTasks, QueueConfig, QueueFullError, TaskAdmin, TaskManager, task_log

app = FastAPI()
task_manager = TaskManager(queues={"reports": QueueConfig(concurrency=2, max_size=100)})
TaskAdmin(app, task_manager)
Tasks = Annotated[ManagedBackgroundTasks, Depends(task_manager.get_tasks)]


@task_manager.task(queue="reports", priority=1)
def report(customer: int) -> None:
    task_log(f"report for {customer}")


@app.post("/reports", status_code=202)
async def add_report(customer: int, tasks: Tasks, urgent: bool = False) -> str:
    try:
        return tasks.add_task(report, customer, priority=9 if urgent else None)
    except QueueFullError as exc:
        raise HTTPException(503, str(exc), {"Retry-After": "5"}) from exc
