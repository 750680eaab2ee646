"""The native annotation, a task with retries, and one that survives the process.

uvicorn examples.basic:app

curl -X POST 'http://127.0.0.1:8000/signup?email=ada@example.com'
curl -X POST 'http://127.0.0.1:8000/orders?number=7'
curl 'http://127.0.0.1:8000/tasks'
curl 'http://127.0.0.1:8000/tasks/stats'
"""

from __future__ import annotations

from fastapi import BackgroundTasks, FastAPI

from taskflow_otel import TaskAdmin, TaskManager, get_task_context, task_log

app = FastAPI()
task_manager = TaskManager(snapshot_db="basic.db")
TaskAdmin(app, task_manager, auto_install=True)


@task_manager.task(retries=3, delay=0.1, backoff=2.0)
def send_email(address: str) -> None:
    context = get_task_context()
    if context is not None and context.attempt == 0:
        raise ConnectionError("the mail server did not answer")
    task_log(f"sent to {address}")


@task_manager.task(persist=True)
async def book(number: int) -> None:
    task_log("booked", number=number)


@app.post("/signup", status_code=202)
async def signup(email: str, background_tasks: BackgroundTasks) -> None:
    background_tasks.add_task(send_email, email)


@app.post("/orders", status_code=202)
async def order(number: int, background_tasks: BackgroundTasks) -> None:
    background_tasks.add_task(book, number)
