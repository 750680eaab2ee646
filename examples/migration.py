"""An application that was written for FastAPI alone: two lines are new, and every background task can be seen.

uvicorn examples.migration:app

curl -X POST 'http://127.0.0.1:8000/signup?email=ada@example.com'
curl 'http://127.0.0.1:8000/tasks'
"""

from __future__ import annotations

from fastapi import BackgroundTasks, FastAPI

from taskflow_otel import TaskAdmin, TaskManager

app = FastAPI()
TaskAdmin(app, TaskManager(), auto_install=True)  # new, with the import


def send_email(address: str) -> None:
    """Not decorated: it runs inside the request, as before."""


@app.post("/signup")
def signup(email: str, background_tasks: BackgroundTasks) -> dict[str, str]:
    background_tasks.add_task(send_email, email)
    return {"message": "welcome"}
