"""An order and its task in one transaction: neither is ever there without the other.

uvicorn examples.transactions:app

curl -X POST 'http://127.0.0.1:8000/orders/8'
curl -X POST 'http://127.0.0.1:8000/orders/7' # 409
curl 'http://127.0.0.1:8000/tasks'

The second order is sold out after its task was added: it leaves no order, and no task.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from taskflow_otel import ManagedBackgroundTasks, TaskAdmin, TaskManager, task_log

DATABASE = os.environ.get("EXAMPLE_DB", "shop.db")


class Base(DeclarativeBase): ...


class Order(Base):
    """What the application itself stores."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


engine = create_async_engine(f"sqlite+aiosqlite:///{DATABASE}")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    """Create the tables of the application; those of the tasks make themselves."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
task_manager = TaskManager(snapshot_db=DATABASE)  # the same database
TaskAdmin(app, task_manager, auto_install=True)


@task_manager.task(retries=3, delay=1.0)
async def ship(order: int) -> None:
    """Ship an order, which is stored for certain when this runs."""
    task_log(f"order {order} is on its way")


async def database_session() -> AsyncIterator[AsyncSession]:
    """A session whose transaction commits after the endpoint, unless an exception left that."""
    async with AsyncSession(engine) as session:
        yield session
        await session.commit()


@app.post("/orders/{number}")
async def create(
    number: int, tasks: ManagedBackgroundTasks, session: Annotated[AsyncSession, Depends(database_session)]
) -> str:
    """Store an order and add its task; odd numbers are sold out, and leave neither."""
    session.add(Order(id=number))
    task_id = tasks.add_task(ship, number, session=session)
    if number % 2:
        raise HTTPException(409, "sold out")
    return task_id
