"""A shop of several processes: web processes store orders and their tasks, workers and Celery run the tasks.

`DATABASE_URL`: PostgreSQL, of the shop and of its tasks. `CELERY_BROKER_URL`: of the messages to Celery.
`TASKS_PASSWORD`: of the user `ops` of the administration. `TASKS_SECRET_KEY`: signs the sessions, the same in each
process. What a process does, it is told by `TASKFLOW_RUN` or by its command, `taskflow-otel worker` or `celery`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Annotated

from celery import Celery
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from taskflow_otel import ManagedBackgroundTasks, QueueConfig, TaskAdmin, TaskManager, task_log
from taskflow_otel.backends import PostgresBackend
from taskflow_otel.celery import install

DATABASE_URL = os.environ["DATABASE_URL"]
SHUTDOWN_TIMEOUT = 20.0
"""Seconds that running tasks get at a stop. `stop_grace_period` of the services must be longer."""


class Base(DeclarativeBase): ...


class Order(Base):
    """What the shop itself stores."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    shipped: Mapped[bool] = mapped_column(default=False)


engine = create_async_engine(DATABASE_URL.replace("postgresql://", "postgresql+psycopg://"))
celery_app = Celery("shop", broker=os.environ["CELERY_BROKER_URL"])
task_manager = TaskManager(
    snapshot_backend=PostgresBackend(DATABASE_URL),
    shutdown_timeout=SHUTDOWN_TIMEOUT,
    # Of each worker; with concurrency_scope="fleet" of all together.
    queues={
        "mail": QueueConfig(concurrency=8, run="pool"),
        "shipping": QueueConfig(concurrency=2, run="pool"),
        "invoices": QueueConfig(run="celery", celery_queue="invoices"),
    },
)
install(celery_app, task_manager)


@task_manager.task(queue="shipping", requeue_on_interrupt=True, retries=3, delay=1.0)
async def ship(order: int) -> None:
    """Safe to repeat: a task whose worker dies runs again on another one."""
    async with AsyncSession(engine) as session, session.begin():
        stored = await session.get_one(Order, order)
        stored.shipped = True
    task_log(f"order {order} is on its way")


@task_manager.task(queue="mail", requeue_on_interrupt=True, retries=3, delay=1.0)
async def send_receipt(order: int) -> None:
    """Stands for the work."""
    task_log(f"receipt of order {order}")


@task_manager.task(queue="invoices", requeue_on_interrupt=True, retries=3, delay=1.0)
def print_invoice(order: int) -> None:
    """Stands for work that takes a processor."""
    task_log(f"invoice of order {order}")


async def database_session() -> AsyncIterator[AsyncSession]:
    """A session whose transaction commits after the endpoint, unless an exception left that."""
    async with AsyncSession(engine) as session:
        yield session
        await session.commit()


app = FastAPI(title="Shop")


@app.post("/orders/{number}", status_code=202)
async def place(
    number: int, tasks: ManagedBackgroundTasks, session: Annotated[AsyncSession, Depends(database_session)]
) -> dict[str, list[str]]:
    """Store an order and its tasks in one transaction; odd numbers are sold out, and leave nothing."""
    session.add(Order(id=number))
    ids = [tasks.add_task(task, number, session=session) for task in (ship, send_receipt, print_invoice)]
    if number % 2:
        raise HTTPException(409, "sold out")
    return {"task_ids": ids}


TaskAdmin(
    app,
    task_manager,
    auto_install=True,
    auth=("ops", os.environ["TASKS_PASSWORD"]),
    secret_key=os.environ["TASKS_SECRET_KEY"],
)


async def create_tables() -> None:
    """Create the tables of the shop; those of the tasks make themselves."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(create_tables())
