"""Work that needs the CPU, in a child process, with progress and a limit of time.

uvicorn examples.processes:app

curl -X POST 'http://127.0.0.1:8000/primes?below=20000'
curl 'http://127.0.0.1:8000/tasks'
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI

from taskflow_otel import ManagedBackgroundTasks, TaskAdmin, TaskManager, get_task_context, task_log

app = FastAPI()
task_manager = TaskManager(max_process_workers=1)
TaskAdmin(app, task_manager)
Tasks = Annotated[ManagedBackgroundTasks, Depends(task_manager.get_tasks)]


@task_manager.task(executor="process", timeout=60)
def count_primes(below: int) -> None:
    context = get_task_context()
    found = 0
    for number in range(2, below):
        found += all(number % factor for factor in range(2, int(number**0.5) + 1))
        if context is not None and number % 5_000 == 0:
            context.progress(number, below)
    task_log(f"{found} primes below {below}")


@app.post("/primes", status_code=202)
async def primes(below: int, tasks: Tasks) -> str:
    return tasks.add_task(count_primes, below)
