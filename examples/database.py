"""SQLAlchemy in tasks (SQLModel is the same): a task sees what its request committed, and opens a session of its own.

uvicorn examples.database:app

curl -X POST 'http://127.0.0.1:8000/orders?item=lamp'
curl -X POST 'http://127.0.0.1:8000/orders?item=nothing' # 404
curl 'http://127.0.0.1:8000/orders'
curl 'http://127.0.0.1:8000/tasks'
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from taskflow_otel import TaskAdmin, TaskManager, task_log

engine = create_engine("sqlite:///shop.db", connect_args={"timeout": 30})
app = FastAPI()
# A file of its own: the shop's transactions and those of the tasks do not wait for each other.
task_manager = TaskManager(snapshot_db="tasks.db")
TaskAdmin(app, task_manager, auto_install=True)


class Base(DeclarativeBase): ...


class Order(Base):
    """A row of the shop."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    packed: Mapped[bool] = mapped_column(default=False)


Base.metadata.create_all(engine)


def session() -> Iterator[Session]:
    """The session of a request. If the commit fails, the request fails, and its tasks do not run."""
    with Session(engine) as one, one.begin():
        yield one


@task_manager.task(retries=3, delay=1.0, persist=True)
def pack(order_id: int) -> None:
    """Takes the key of a row, never the row: a session ends with its request, and a task may run days later."""
    with Session(engine) as one, one.begin():
        order = one.get_one(Order, order_id)
        # The task may run twice if its process is killed: what it does must be the same the second time.
        order.packed = True
        task_log(f"packed {order.item}")


@app.post("/orders", status_code=202)
def create_order(item: str, background_tasks: BackgroundTasks, one: Annotated[Session, Depends(session)]) -> int:
    order = Order(item=item)
    one.add(order)
    one.flush()
    background_tasks.add_task(pack, order.id)
    if item == "nothing":
        # The order is rolled back, and its task is cancelled.
        raise HTTPException(404, "we do not sell that")
    return order.id


@app.get("/orders")
def list_orders(one: Annotated[Session, Depends(session)]) -> dict[str, bool]:
    return {order.item: order.packed for order in one.scalars(select(Order))}
