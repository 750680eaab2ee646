"""Arguments that are ciphertext outside the running task. To rotate the key, put the new one first.

export TASK_KEYS="$(python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())')"
uvicorn examples.encryption:app

curl -X POST 'http://127.0.0.1:8000/payments?card=tok_visa&amount=99.5'
curl 'http://127.0.0.1:8000/tasks'
"""

from __future__ import annotations

import os
from typing import Annotated

from cryptography.fernet import Fernet
from fastapi import Depends, FastAPI

from taskflow_otel import ManagedBackgroundTasks, TaskAdmin, TaskManager, task_log

# Without the variable each start has a key of its own, so stored tasks of the last one cannot be read.
keys = os.environ.get("TASK_KEYS", Fernet.generate_key().decode()).split(",")

app = FastAPI()
task_manager = TaskManager(snapshot_db="payments.db", encrypt_args_key=keys)
TaskAdmin(app, task_manager, display_func_args=True)
Tasks = Annotated[ManagedBackgroundTasks, Depends(task_manager.get_tasks)]


@task_manager.task(persist=True, retries=3)
async def charge(card: str, amount: float) -> None:
    task_log("charged", amount=amount, last_four=card[-4:])


@app.post("/payments", status_code=202)
async def pay(card: str, amount: float, tasks: Tasks) -> str:
    return tasks.add_task(charge, card, amount)
