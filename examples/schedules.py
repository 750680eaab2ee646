"""Runs by an interval, by cron on a wall clock, and at one moment.

uvicorn examples.schedules:app

curl 'http://127.0.0.1:8000/tasks/schedules'
curl -X POST 'http://127.0.0.1:8000/tasks/schedules/nightly_report/run'
curl -X POST 'http://127.0.0.1:8000/reminders?address=ada@example.com&minutes=60'
curl 'http://127.0.0.1:8000/reminders'
curl -X DELETE 'http://127.0.0.1:8000/reminders?address=ada@example.com'
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from fastapi import FastAPI

from taskflow_otel import TaskAdmin, TaskManager, task_log

app = FastAPI()
task_manager = TaskManager(snapshot_db="schedules.db")
TaskAdmin(app, task_manager)


@task_manager.schedule(every=timedelta(minutes=5), run_on_startup=True)
async def check_health() -> None:
    task_log("healthy")


@task_manager.schedule(cron="30 2 * * *", timezone="Europe/London", catch_up="latest", retries=3)
def nightly_report() -> None:
    task_log("reported")


@task_manager.task()
async def remind(address: str) -> None:
    task_log(f"reminded {address}")


@app.post("/reminders", status_code=202)
async def plan(address: str, minutes: float) -> None:
    due = datetime.now(UTC) + timedelta(minutes=minutes)
    await task_manager.schedule_once(remind, address, run_at=due, run_key=address)


@app.get("/reminders")
async def planned() -> dict[str, datetime]:
    return {run.run_key: run.run_at for run in await task_manager.list_scheduled()}


@app.delete("/reminders")
async def forget(address: str) -> bool:
    return await task_manager.cancel_scheduled(address)
