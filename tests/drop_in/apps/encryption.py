"""Arguments that are ciphertext outside the running task."""

from __future__ import annotations

from typing import Any

from cryptography.fernet import Fernet
from fastapi import Depends, FastAPI
from fastapi_taskflow import TaskAdmin, TaskManager, task_log

task_manager = TaskManager(snapshot_db="encrypted.db", encrypt_args_key=Fernet.generate_key().decode())
app = FastAPI()
TaskAdmin(app, task_manager, display_func_args=True)


@task_manager.task(retries=3, delay=1.0, backoff=2.0)
def charge(user_id: int, card_token: str, amount: float) -> None:
    task_log("charged", user_id=user_id, right=card_token == "tok_visa_4242" and amount == 99.5)


@app.post("/pay")
def pay(tasks: Any = Depends(task_manager.get_tasks)) -> Any:
    return tasks.add_task(charge, user_id=42, card_token="tok_visa_4242", amount=99.5, tags={"type": "charge"})
